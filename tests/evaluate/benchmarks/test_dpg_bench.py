"""DPG-Bench's graph of questions."""

import csv

import judge_checkpoints
import pytest
from benchmark_cases import answered, column, error_of, grey, score_of

from saccade.evaluate.benchmark import _checked
from saccade.evaluate.benchmarks.dpg_bench import DPGBench, graph_score
from saccade.evaluate.rules.judges import load_answers


def test_a_no_takes_its_children_with_it():
    """1 and 2 stand alone, 3 needs 1, 4 needs 1 and 2. Of four questions:

    all yes: 4/4; 1 no: 3 and 4 fall, 1/4; 3 no: 3/4; 2 no: 4 falls, 2/4.
    """
    parents = {1: (), 2: (), 3: (1,), 4: (1, 2)}
    yes = dict.fromkeys(parents, True)
    assert graph_score(yes, parents) == 1
    assert graph_score({**yes, 1: False}, parents) == 0.25
    assert graph_score({**yes, 3: False}, parents) == 0.75
    assert graph_score({**yes, 2: False}, parents) == 0.5


def test_a_no_is_handed_on_in_the_order_of_the_file():
    """1 <- 2 <- 3: if 1 is no, 2 counts as no and so does 3. Listed as 3, 2, 1, the 3 is looked at before 2 falls."""
    answers = {1: False, 2: True, 3: True}
    assert graph_score(answers, {1: (), 2: (1,), 3: (2,)}) == 0
    assert graph_score({3: True, 2: True, 1: False}, {3: (2,), 2: (1,), 1: ()}) == pytest.approx(1 / 3)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path, rows):
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def test_prompts_with_commas_quotes_and_line_ends_and_their_questions_are_read(tmp_path):
    DPGBench.write_miniature(tmp_path, 3)
    path = tmp_path / "dpg_bench.csv"
    text = 'A red cat, "as quiet\nas can be".'
    write(path, [{**row, "text": text} for row in rows_of(path)])
    (tmp_path / "prompts" / "partiprompts0.txt").unlink()
    benchmark = DPGBench(data=str(tmp_path))
    assert len(benchmark) == 3 and benchmark[0].prompt[0].text == text
    assert benchmark[1].prompt[0].text != text, "a prompt's own file comes first"
    assert [one.parents for one in benchmark[0].target.values()] == [(), (), (1,), (1, 2)]
    assert [one.category for one in benchmark[0].target.values()] == ["entity", "entity", "attribute", "relation"]


def test_the_legacy_split_skips_the_first_row_and_the_prompt_that_needs_it(tmp_path):
    """The first row is question 1 of the first prompt: 3 and 4 depend on it. Without them only question 2 is left."""
    DPGBench.write_miniature(tmp_path, 2)
    root = str(tmp_path)
    assert [list(task.target) for task in DPGBench(data=root)] == [[1, 2, 3, 4]] * 2
    assert [task.id for task in DPGBench(data=root, part="legacy")] == ["partiprompts1"]
    path = tmp_path / "dpg_bench.csv"
    write(path, [{**row, "dependency": "0"} for row in rows_of(path)])
    _checked.cache_clear()
    assert [list(task.target) for task in DPGBench(data=root, part="legacy")] == [[2, 3, 4], [1, 2, 3, 4]]


def test_scores_and_categories_are_those_of_a_real_network_s_answers(tmp_path):
    """Yes is P(yes) > 0.5. The columns count answers as given, the score counts children of a no as no."""
    DPGBench.write_miniature(tmp_path, 8)
    blip = str(judge_checkpoints.blip(tmp_path / "b"))
    benchmark = DPGBench(data=str(tmp_path), answerer=blip)
    picture, answers = grey(), load_answers(blip)
    groups, graphs, entities = [], [], []
    for i in range(8):
        questions = benchmark[i].target
        yes = {k: chance > 0.5 for k, chance in zip(
            questions, answers(picture, [one.text for one in questions.values()]), strict=True
        )}  # fmt: skip
        graphs.append(graph_score(yes, {k: one.parents for k, one in questions.items()}))
        entities += [yes[1], yes[2]]
        groups.append([answered(benchmark, i, picture)])
        assert score_of(benchmark.rule, groups[-1][0]) == pytest.approx(graphs[-1])
    assert column(benchmark, "score", groups).value == pytest.approx(sum(graphs) / 8)
    assert column(benchmark, "entity", groups).value == pytest.approx(sum(entities) / 16)
    assert column(benchmark, "entity", groups).n == 16
    nothing = [[answered(benchmark, 0, "words")]]
    assert column(benchmark, "score", nothing).value == 0 and column(benchmark, "entity", nothing).value == 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dependency": "1;2"}, "dependency"),
        ({"dependency": "9"}, "dependency"),
        ({"proposition_id": "two"}, "proposition_id"),
        ({"tuple": "thing - whole (cat)"}, "tuple"),
        ({"question_natural_language": ""}, "question_natural_language"),
    ],
)
def test_wrong_rows_are_named(tmp_path, change, field):
    DPGBench.write_miniature(tmp_path, 1)
    path = tmp_path / "dpg_bench.csv"
    rows = rows_of(path)
    rows[3] |= change
    write(path, rows)
    error_of(lambda: len(DPGBench(data=str(tmp_path))), path, 4, field)
