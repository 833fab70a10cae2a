"""What every benchmark promises: its miniature is read, its gold is right, its files' mistakes are named."""

import csv
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from saccade.core.content import Content, Text
from saccade.core.errors import CapabilityError, ConfigError, DataError
from saccade.core.trajectory import Prompt, Trajectory, forced_turn
from saccade.evaluate.benchmark import Benchmark, benchmark_classes, benchmark_named

N = 5
JUNK = ("", " \n", "<answer></answer>", "\0", "(" * 5000, "9" * 400, "\\boxed{", "☃ 」", "yes" * 9000, "A or B?")
CLASSES = benchmark_classes()
PARTS = [(name, part) for name, cls in CLASSES.items() for part in cls.parts]
MODELS: Any = None
"""No metric of a benchmark looks into models."""
WRITTEN: dict[str, Path] = {}


@pytest.fixture
def miniature(tmp_path_factory):
    """Folder of a benchmark's miniature, written once."""

    def folder(name: str) -> Path:
        if name not in WRITTEN:
            path = tmp_path_factory.mktemp(name)
            try:
                CLASSES[name].write_miniature(path, N)
            except CapabilityError as error:
                pytest.skip(str(error))
            WRITTEN[name] = path
        return WRITTEN[name]

    return folder


def played(benchmark: Benchmark, index: int, outputs: tuple[Content, ...]) -> Trajectory:
    """The episode of these outputs in the benchmark's own environment."""
    task, spec = benchmark[index], benchmark.env()
    env = spec.make()
    try:
        shown = env.reset(task, 0)
        prompt = Prompt(task, (*spec.prompt(task), *(shown.content if shown is not None else ())))
        trajectory = Trajectory(prompt)
        for output in outputs[: spec.max_turns]:
            turn = forced_turn(output, None, 1)
            step = env.step(output)
            turn.reward, turn.info, turn.observation = step.reward, step.info, step.observation
            trajectory.turns.append(turn)
            if step.terminated or step.truncated:
                break
        trajectory.final, trajectory.turns[-1].observation = trajectory.turns[-1].observation, None
    finally:
        env.close()
    return trajectory


def scores(benchmark: Benchmark, trajectories: list[Trajectory]) -> list[float | None]:
    try:
        found = benchmark.rule(trajectories)
    except (ConfigError, CapabilityError) as error:
        pytest.skip(f"its rule needs a model: {error}")
    return [one if one is None or isinstance(one, float | int) else one.total for one in found]


# --- classes ----------------------------------------------------------------------------------------------------------


def test_there_are_benchmarks_of_every_pillar_and_names_are_file_names():
    assert len(CLASSES) >= 15
    for name, cls in CLASSES.items():
        assert name == cls.name and name.isidentifier()
        assert cls.pillar in ("vlm", "generation", "unified", "vla")
        assert cls.title and cls.parts and len(set(cls.parts)) == len(cls.parts)
        assert cls.paper.replace(".", "").isdigit() and len(cls.paper) == 10
        assert not cls.rule_in_words[0].islower() and cls.rule_in_words.endswith(".")
        assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(")


@pytest.mark.parametrize("name", CLASSES)
def test_an_unknown_split_and_the_training_split_are_refused(name, miniature):
    with pytest.raises(ConfigError, match="part must be one of"):
        benchmark_named(name, part="no such part")
    with pytest.raises(ConfigError, match="no training part"):
        benchmark_named(name, str(miniature(name))).split("train")


@pytest.mark.parametrize("name", CLASSES)
def test_a_missing_folder_and_an_empty_one_are_data_errors(name, tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError) as caught:
            len(benchmark_named(name, str(folder)))
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


# --- miniatures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_tasks_have_their_own_identifiers_and_prompts_that_are_decoded(name, part, miniature):
    benchmark = benchmark_named(name, str(miniature(name)), part)
    tasks = [benchmark[i] for i in range(len(benchmark))]
    assert tasks and benchmark.split("test") is benchmark
    assert len({task.id for task in tasks}) == len(tasks)
    for task in tasks:
        content = benchmark.env().prompt(task)
        assert content and all(not isinstance(part, Text) or part.text for part in content)
        assert isinstance(task.info["category"], str)


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_gold_gets_the_highest_score_and_a_wrong_output_less(name, part, miniature):
    """Wrong outputs are the other tasks' golds and empty text; of each task the worst one is taken."""
    benchmark = benchmark_named(name, str(miniature(name)), part)
    golden = {i: benchmark[i].gold for i in range(len(benchmark)) if benchmark[i].gold}
    if not golden:
        pytest.skip("its answers are not published, or it has no outputs that are right")
    right = [played(benchmark, i, gold) for i, gold in golden.items()]
    assert scores(benchmark, right) == [1.0] * len(golden)
    wrong: list[Trajectory] = []
    for i in golden:
        others = [gold for k, gold in golden.items() if k != i]
        tried = [played(benchmark, i, outputs) for outputs in (*others, ((Text(""),),))]
        found = [score for score in scores(benchmark, tried) if score is not None]
        assert len(found) == len(tried) and 0 <= min(found) < 1
        wrong.append(tried[found.index(min(found))])
    first = next(iter(benchmark.metrics().values()))
    better, worse = (first.compute(first.rows([[one] for one in those], MODELS)) for those in (right, wrong))
    assert worse.value < better.value


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_no_output_makes_scoring_or_summaries_raise(name, part, miniature):
    benchmark = benchmark_named(name, str(miniature(name)), part)
    first = range(min(3, len(benchmark)))
    groups = [[played(benchmark, i, ((Text(text),),)) for text in JUNK] for i in first]
    for score in scores(benchmark, [one for group in groups for one in group]):
        assert score is None or 0 <= score <= 1
    for metric in benchmark.metrics().values():
        metric.compute(metric.rows(groups, MODELS))


@pytest.mark.parametrize("name", CLASSES)
def test_an_output_of_nothing_at_all_is_scored(name, miniature):
    benchmark = benchmark_named(name, str(miniature(name)))
    scores(benchmark, [played(benchmark, 0, ((),))])


# --- mistakes in files ------------------------------------------------------------------------------------------------


def copied(name, miniature, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(miniature(name), folder)
    return folder


def used(name, folder):
    """Read every split and decode every prompt."""
    for part in CLASSES[name].parts:
        benchmark = benchmark_named(name, str(folder), part)
        for i in range(len(benchmark)):
            assert benchmark[i].prompt
    return True


def one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message and len(message) < 1000, message
    for part in parts:
        assert part in message, (part, message)


def rows_of(path):
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        rows = json.loads(path.read_text())
        return rows if isinstance(rows, list) and rows and isinstance(rows[0], dict) else None
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix in (".tsv", ".csv"):
        mark = "\t" if path.suffix == ".tsv" else ","
        with path.open(newline="") as file:
            return list(csv.DictReader(file, delimiter=mark))
    return None


def write_rows(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        schema = pyarrow.parquet.read_schema(path)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path)
    else:
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(rows)


@pytest.mark.parametrize("name", CLASSES)
def test_a_missing_or_wrong_value_is_harmless_or_named_with_its_row_and_file(name, miniature, tmp_path):
    folder = copied(name, miniature, tmp_path)
    # Files of one name in several folders have one layout.
    for path in {path.name: path for path in sorted(folder.rglob("*")) if path.is_file()}.values():
        rows = rows_of(path)
        if not rows:
            continue
        before = path.read_bytes()
        named = 0
        # Only files of objects can hold anything anywhere.
        values = (None, {"no": 1}, [[]]) if path.suffix in (".json", ".jsonl") else (None,)
        for field, value in itertools.product(rows[0], values):
            write_rows(path, [{**rows[0], field: value}, *rows[1:]])
            forget()
            try:
                used(name, folder)
            except DataError as error:
                message = str(error)
                assert "\n" not in message and path.name in message, message
                assert "row " in message and field in message, message
                named += 1
            path.write_bytes(before)
        assert named >= 2, f"{path.name}: no field matters"


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_file_that_is_cut_off_is_named(name, share, miniature, tmp_path):
    folder = copied(name, miniature, tmp_path)
    caught = 0
    # One of each kind and folder is enough: of many pictures the first.
    kinds = {(path.suffix, path.parent): path for path in sorted(folder.rglob("*"), reverse=True) if path.is_file()}
    for path in kinds.values():
        before = path.read_bytes()
        path.write_bytes(before[: int(share * len(before))])
        forget()
        try:
            used(name, folder)
        except DataError as error:
            message = str(error)
            assert "\n" not in message and len(message) < 1000, message
            assert str(folder) in message, message
            caught += 1
        path.write_bytes(before)
    assert caught or share


def forget():
    """A folder is read once a process; here it changes."""
    from saccade.evaluate import benchmark

    benchmark._checked.cache_clear()
