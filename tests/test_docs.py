"""The pages that are written by a script say what the code says; links and commands in the text lead somewhere."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image as Picture

from saccade.cli import main, parsers
from saccade.cli.catalogue import catalogue, make, shipped
from saccade.core.content import Image, Text
from saccade.core.trajectory import Prompt, Trajectory, forced_turn
from saccade.envs.datasets.jsonl import JsonlTasks
from saccade.recipe import Recipe
from saccade.rewards.user import UserFunction

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return loaded("build_recipes")


def test_recipes_page_is_current(script):
    written = (ROOT / "docs" / "recipes.md").read_text()
    assert written == script.page(), "run: python docs/build_recipes.py"


def test_ablations_page_says_what_the_stored_results_say(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["ablations", "--check"]) == 0, capsys.readouterr().err


def test_speed_page_is_current():
    written = (ROOT / "docs" / "speed.md").read_text()
    assert written == loaded("build_benchmarks").page(written), "run: python docs/build_benchmarks.py"


def test_readme_lists_every_method(script):
    text = (ROOT / "README.md").read_text()
    assert text == script.readme(text), "run: python docs/build_recipes.py"
    assert all(f"[`{name}`](docs/recipes.md#{name})" in text for name in (entry.name for entry in shipped()))


def test_result_of_an_ablation_is_told_with_its_standard_error(script):
    """Means of (0.5, 0.7) and (0.4, 0.4) are 0.6 and 0.4."""
    result = {
        "verdict": "holds", "metric": "iou", "higher_is_better": True, "seeds": [0, 1], "with": [0.5, 0.7],
        "without": [0.4, 0.4], "difference": 0.2, "stderr": 0.1, "margin": 0.0, "command": "saccade ablate x",
        "note": "",
    }  # fmt: skip
    told = script.outcome(result)
    assert "holds: iou +0.2 ± 0.1" in told
    assert "| mean | 0.6 | 0.4 |" in told


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_in_the_text_exist(page):
    """Commands of ``saccade``, and the recipes that are trained, shown, ablated or validated."""
    known = parsers()[1]
    for command, name in re.findall(
        r"(?:^|[`(/])saccade ([a-z]+)(?: ([a-z][a-z_0-9]*))?", page.read_text(), re.MULTILINE
    ):
        assert command in known, f"saccade {command}"
        if name and command in ("train", "show", "ablate", "validate"):
            assert name in catalogue(), f"saccade {command} {name}"


def code(page: str, language: str) -> list[str]:
    """Code blocks of a page."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    return [block for written, block in blocks if written == language]


@pytest.mark.parametrize("number", range(4))
def test_rows_shown_for_each_layout_are_read(number, tmp_path):
    row = code("docs/data.md", "json")[number]
    for name in ("0001.png", "scenes/0001.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Picture.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "mine.jsonl").write_text(row)
    task = JsonlTasks(str(tmp_path / "mine.jsonl"))[0]
    assert [type(part) for part in task.prompt] == [Image, Text]
    assert "How many" in task.prompt[1].text
    assert str(task.target["answer"]) == "3"


@pytest.mark.parametrize("number", range(2))
def test_rewards_shown_can_be_used(number, tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "How many?", "answer": 3, "source": "mine"}')
    task = JsonlTasks(str(tmp_path / "mine.jsonl"))[0]
    file = tmp_path / "mine.py"
    file.write_text(code("docs/data.md", "python")[number])
    said = [Trajectory(Prompt(task, task.prompt), [forced_turn((Text(text),), None, 1)]) for text in ("3", "4")]
    assert [score.value for score in UserFunction(path=str(file), name="score")(said)] == [1.0, 0.0]


def test_settings_shown_for_models_exist():
    block = next(block for block in code("docs/data.md", "") if block.startswith("--policy"))
    given: list[tuple[str, list[str]]] = []
    for word in block.split():
        if word.startswith("--"):
            given.append((word.removeprefix("--"), []))
        else:
            given[-1][1].append(word)
    recipe = make("grpo", "base", given)
    assert recipe.policy.lora.rank == 16
    assert recipe.policy.dtype == "bfloat16"


def test_python_shown_in_the_readme_makes_the_recipe():
    (block,) = code("README.md", "python")
    before, _, _ = block.partition("state = train(")
    found: dict[str, Recipe] = {}
    exec(before, found)
    assert before != block
    assert found["recipe"].train.steps == 20
    assert found["recipe"].rewards["iou"].weight == 2.0
