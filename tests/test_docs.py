"""The pages that are written by a script say what the code says; links and commands in the text lead somewhere."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from saccade.cli import parsers
from saccade.cli.catalogue import catalogue

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_recipes", ROOT / "docs" / "build_recipes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_recipes_page_is_current(script):
    written = (ROOT / "docs" / "recipes.md").read_text()
    assert written == script.page(), "run: python docs/build_recipes.py"


def test_readme_lists_every_method(script):
    text = (ROOT / "README.md").read_text()
    assert text == script.readme(text), "run: python docs/build_recipes.py"
    assert all(f"[`{name}`](docs/recipes.md#{name})" in text for name in catalogue())


def test_result_of_an_ablation_is_told_with_its_standard_error(script):
    """Means of (0.5, 0.7) and (0.4, 0.4) are 0.6 and 0.4."""
    result = {
        "verdict": "holds", "metric": "iou", "higher_is_better": True, "seeds": [0, 1], "with": [0.5, 0.7],
        "without": [0.4, 0.4], "difference": 0.2, "stderr": 0.1, "margin": 0.0, "command": "saccade ablate x", "note": "",
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
    for command, name in re.findall(r"(?:^|[`(/])saccade ([a-z]+)(?: ([a-z][a-z_0-9]*))?", page.read_text(), re.MULTILINE):
        assert command in known, f"saccade {command}"
        if name and command in ("train", "show", "ablate", "validate"):
            assert name in catalogue(), f"saccade {command} {name}"
