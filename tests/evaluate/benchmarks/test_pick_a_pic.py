"""Pick-a-Pic's agreement with ties, of answers and of rewards."""

import math
from dataclasses import dataclass

import pyarrow as arrow
import pytest
from benchmark_cases import answered, column, error_of, score_of
from pyarrow import parquet

from saccade.core.errors import ConfigError
from saccade.core.reward import SampleReward
from saccade.evaluate.benchmarks.pick_a_pic import PairAccuracy, PickAPic, agreement, best_margin, choice


@pytest.mark.parametrize(
    ("said", "label", "expected"),
    [(1, 1, 1), (0, 0, 1), (0.5, 0.5, 1), (1, 0.5, 0.5), (0.5, 0, 0.5), (1, 0, 0), (0, 1, 0)],
)
def test_a_tie_on_one_side_alone_is_half_right(said, label, expected):
    assert agreement(said, label) == expected


def test_scores_closer_than_the_margin_in_probability_are_a_tie():
    """Scores 1 and 0: p = 1 / (1 + 1/e) = 0.731, difference 0.462; equal scores are always a tie."""
    difference = (math.e - 1) / (math.e + 1)
    assert difference == pytest.approx(0.462, abs=1e-3)
    assert choice(1, 0, 0.46) == 1 and choice(0, 1, 0.46) == 0 and choice(1, 0, 0.47) == 0.5
    assert choice(3, 3, 0) == 0.5


def test_the_best_margin_separates_ties_from_preferences():
    pairs = [(2.0, 0.0, 1.0), (0.0, 2.0, 0.0), (0.2, 0.0, 0.5), (0.0, 0.1, 0.5)]
    margin = best_margin(pairs)
    assert math.tanh(0.1) < margin <= math.tanh(1.0)
    assert sum(agreement(choice(a, b, margin), label) for a, b, label in pairs) == 4
    with pytest.raises(ConfigError, match="needs pairs"):
        best_margin([])


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("first", [1, 0, 0.5]), ("<think>hm</think><answer>Second.</answer>", [0, 1, 0.5]), ("Tie", [0.5, 0.5, 1]),
        ("the first one, I think", [0, 0, 0]), ("", [0, 0, 0]),
    ],
)  # fmt: skip
def test_answers_are_compared_with_the_person_s_choice(tmp_path, text, scores):
    """The miniature's labels are first, second, tie, first, ..."""
    PickAPic.write_miniature(tmp_path, 3)
    benchmark = PickAPic(data=str(tmp_path))
    assert [score_of(benchmark.rule, answered(benchmark, i, text)) for i in range(3)] == scores


@dataclass(frozen=True, kw_only=True)
class Greenness(SampleReward):
    """Green minus red of the middle, and only where the caption speaks of green."""

    def score(self, trajectory):
        assert "green" in trajectory.prompt.content[0].text
        pixels = trajectory.image.pixels[12, 12].astype(float)
        return (pixels[1] - pixels[0]) / 255


def test_a_reward_is_measured_on_both_pictures(tmp_path):
    """The first picture is green, the second red: the reward always says first. Labels first, second, tie (x 2).

    (1 + 0 + 0.5) / 3; with the margin at 1 everything is a tie: (0.5 + 0.5 + 1) / 3.
    """
    PickAPic.write_miniature(tmp_path, 6)
    benchmark = PickAPic(data=str(tmp_path))
    groups = [[answered(benchmark, i, "")] for i in range(6)]
    metric = PairAccuracy(Greenness())
    assert metric.compute(metric.rows(groups, None)).value == pytest.approx(0.5)
    ties = PairAccuracy(Greenness(), margin=1.0)
    assert ties.compute(ties.rows(groups, None)).value == pytest.approx(2 / 3)
    assert column(benchmark, "of_ties", groups).n == 2 and column(benchmark, "of_preferences", groups).n == 4
    with pytest.raises(ConfigError, match="margin must be in"):
        PairAccuracy(Greenness(), margin=2)


def test_unlabelled_pairs_are_left_out_and_wrong_labels_named(tmp_path):
    PickAPic.write_miniature(tmp_path, 4)
    assert len(PickAPic(data=str(tmp_path))) == 4
    path = tmp_path / "data" / "test-00000-of-00001.parquet"
    rows = parquet.read_table(path).to_pylist()
    rows[2] |= {"label_0": 1.0, "label_1": 1.0}
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    error_of(lambda: len(PickAPic(data=str(tmp_path), part="test")), path, 3, "label_0")
