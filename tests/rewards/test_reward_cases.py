"""Every reward on its table, on hostile outputs, and under the contract of rewards."""

import copy
import pickle
import sys
import time
from pathlib import Path

import pytest
from cases import CASES, Case, trajectory

from saccade.core import config
from saccade.core.errors import ConfigError, DataError
from saccade.core.reward import Score
from saccade.rewards import (
    answer,
    classifier,
    combine,
    environment,
    features,
    format,
    geometry,
    gui,
    image,
    learned,
    match,
    networks,
    pareto,
    physics,
    preference,
    pretrained,
    sandbox,
    selection,
    shapes,
    silhouette,
    templates,
    text,
    user,
    verify,
    video_preference,
)
from saccade.rewards.answer import AnswerReward
from saccade.rewards.combine import scores
from saccade.rewards.format import JsonSchema, LengthTarget, LengthWindow, Overlong, Repetition, Tags, TurnPattern
from saccade.rewards.geometry import BoxIoU, HungarianBoxes, MaskIoU, TemporalIoU
from saccade.rewards.text import Bleu, NameRecall, Rouge
from saccade.rewards.verify import ChoiceMatch, GradedLadder, NumberMatch, SympyEqual

MODULES = (
    answer,
    classifier,
    combine,
    environment,
    features,
    format,
    geometry,
    gui,
    image,
    learned,
    match,
    networks,
    pareto,
    physics,
    preference,
    pretrained,
    selection,
    shapes,
    silhouette,
    templates,
    text,
    user,
    verify,
    video_preference,
)


def name(case: Case) -> str:
    return type(case.reward).__name__


ROWS = [
    pytest.param(case, output, expected, id=f"{i}-{name(case)}-{label}")
    for i, case in enumerate(CASES)
    for label, (output, expected) in case.rows.items()
]


def total(case: Case, output: str) -> float | None:
    (score,) = scores(case.reward, [trajectory(output, target=case.target, actions=case.actions)])
    return score.total


@pytest.mark.parametrize(("case", "output", "expected"), ROWS)
def test_score_is_the_tables(case, output, expected):
    assert total(case, output) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_table_has_the_four_labels_and_gold_is_the_maximum(case):
    assert {"gold", "wrong", "malformed", "empty"} <= case.rows.keys()
    assert case.rows["gold"][1] == max(value for _, value in case.rows.values()) == case.maximum


def test_every_reward_of_a_single_output_is_in_the_table():
    tested = {type(case.reward) for case in CASES}
    kinds = {
        kind
        for module in (format, geometry, text, verify)
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__ and hasattr(kind, "score")
    }
    assert tested == kinds


@pytest.mark.parametrize("case", CASES, ids=name)
def test_scores_do_not_depend_on_the_batch(case):
    batch = [trajectory(output, target=case.target, actions=case.actions) for output, _ in case.rows.values()]
    alone = [scores(case.reward, [one])[0] for one in batch]
    assert scores(case.reward, batch) == alone
    assert scores(case.reward, batch[::-1]) == alone[::-1]


@pytest.mark.parametrize("case", CASES, ids=name)
def test_rewards_survive_pickling_and_configuration_files(case):
    assert pickle.loads(pickle.dumps(case.reward)) == case.reward
    written = config.load(config.dump(case.reward))
    assert config.to_dict(config.from_dict(written)) == config.to_dict(case.reward)


HOSTILE = {
    "megabyte": "a" * 2**20,
    "digits": "9" * 2**20,
    "numbers": "1," * 2**19,
    "dots": "1." * 2**19,
    "decimals": ".1" * 2**19,
    "exponents": "1e" * 2**19,
    "signs": "-" * 2**20,
    "blanks": " " * 2**20 + "x",
    "newlines": "\n" * 2**20,
    "opening": "<answer>" * 2**17,
    "closing": "</answer>" * 2**17,
    "think": "<think>" + "<answer></answer>" * 2**16 + "</think>",
    "angles": "<" * 2**20,
    "brackets": "[" * 2**20,
    "braces": '{"a":' * 2**18,
    "nested": "[" * 50_000 + "]" * 50_000,
    "parentheses": "(" * 2**19 + ")" * 2**19,
    "fences": "```" * 2**18,
    "bait": "a" * 50_000 + "!" + "b," * 50_000,
    "boxes": "[1,2,3,4]," * 2**16,
    "corners": "1,2,3,4,5,6," * 2**16,
    "infinities": "[1e400, -1e400, nan, inf]",
    "wide": "[-1e308, -1e308, 1e308, 1e308]",
    "tiny": "[0, 0, 1e-300, 1e-300]",
    "null": "\x00\ud800\u202e",
    "tower": "9**9**9**9",
    "deep power": "2^" * 500 + "2",
    "latex": r"\frac{" * 300,
    "counts": '{"size": [4, 6], "counts": [' + "0," * 2**18 + "24]}",
    "huge counts": '{"size": [4, 6], "counts": [1e18, 99999999999999999999]}',
    "commas": "," * 2**20,
    "unicode digits": "\u0661\u0662\u0663\u00b2\u2460" * 1000,
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_outputs_get_finite_scores_quickly(attack):
    """Every reward reads every attack, bare and inside the tags. A bound of seconds finds quadratic time: a megabyte
    squared is 10^12 steps."""
    raw = HOSTILE[attack]
    outputs = (raw, f"<answer>{raw}</answer>")
    for case in {name(case): case for case in CASES}.values():
        for output in outputs:
            start = time.perf_counter()
            found = total(case, output)
            seconds = time.perf_counter() - start
            assert found is not None
            assert -1e7 < found <= case.maximum + 1e-9
            assert seconds < 5, f"{name(case)} took {seconds:.1f} s for {attack}"


@pytest.mark.parametrize("hostile", ["9**9**9**9", "factorial(10**9)", "9" * 1999])
def test_expressions_that_never_end_are_wrong_and_the_next_one_is_read(hostile):
    reward = SympyEqual(tag="")
    start = time.perf_counter()
    assert total(Case(reward, "1"), hostile) == 0
    assert total(Case(reward, "x**2 - 1"), "(x - 1)(x + 1)") == 1
    assert time.perf_counter() - start < 30


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not show a process's limits")
def test_expressions_are_compared_in_a_gigabyte():
    import resource

    assert total(Case(SympyEqual(), "x"), "<answer>x + 0</answer>") == 1
    assert sandbox._current is not None
    assert resource.prlimit(sandbox._current[1].process.pid, resource.RLIMIT_AS) == (2**30, 2**30)


ANSWERED = [case for case in CASES if isinstance(case.reward, AnswerReward)]


@pytest.mark.parametrize("case", ANSWERED, ids=name)
def test_target_may_be_a_field_of_a_mapping(case):
    output, expected = case.rows["gold"]
    one = trajectory(output, target={"other": object(), "answer": case.target}, actions=case.actions)
    assert scores(case.reward, [one])[0].total == expected


@pytest.mark.parametrize("case", ANSWERED, ids=name)
def test_missing_target_leaves_the_trajectory_unscored(case):
    assert scores(case.reward, [trajectory("x", target=None)]) == [Score(None)]


@pytest.mark.parametrize("case", ANSWERED, ids=name)
def test_target_of_a_wrong_type_is_named(case):
    with pytest.raises(DataError, match=rf"task 'digits/3': the target of {name(case)} must be .+, got <object"):
        scores(case.reward, [trajectory("x", target=object(), id="digits/3")])


def test_missing_field_of_the_target_is_named():
    with pytest.raises(DataError, match="task 't': the target of BoxIoU has no field 'box', only answer, kind"):
        scores(BoxIoU(field="box"), [trajectory("x", target={"answer": 1, "kind": "read"})])


@pytest.mark.parametrize(
    ("reward", "target"),
    [
        (NumberMatch(), "ten"),
        (NumberMatch(), float("nan")),
        (NumberMatch(), True),
        (ChoiceMatch(), "Z"),
        (SympyEqual(), "2 +* 3"),
        (BoxIoU(), [10, 10, 5, 20]),
        (BoxIoU(), "[1,2,3]"),
        (HungarianBoxes(), [[0, 0, 1]]),
        (MaskIoU(), [[0, 1], [1, 0]]),
        (TemporalIoU(), [5, 5]),
        (GradedLadder(), ["2.color"]),
        (Rouge(), ""),
        (NameRecall(), []),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_unusable_targets_are_errors_not_zeros(reward, target):
    with pytest.raises(DataError, match="task 't': the target of"):
        scores(reward, [trajectory("<answer>1</answer>", target=target)])


def test_normalised_boxes_need_a_picture():
    from saccade.core.content import Text

    with pytest.raises(DataError, match="task 't': normalised coordinates need an image"):
        blind = trajectory("<answer>[1,2,3,4]</answer>", target=[1, 2, 3, 4], prompt=(Text("where?"),))
        scores(BoxIoU(scale=1000), [blind])


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: NumberMatch(absolute=-1), "absolute"),
        (lambda: ChoiceMatch(choices=("a", "A")), "choices"),
        (lambda: SympyEqual(limit=0), "limit"),
        (lambda: GradedLadder(ladder=(2.0, 1.0)), "ladder"),
        (lambda: GradedLadder(wrong=-1), "wrong"),
        (lambda: GradedLadder(separator=","), "separator"),
        (lambda: Bleu(order=0), "order"),
        (lambda: Rouge(kinds=()), "kinds"),
        (lambda: NameRecall(min_chars=-1), "min_chars"),
        (lambda: BoxIoU(threshold=1.5), "threshold"),
        (lambda: BoxIoU(scale=0), "scale"),
        (lambda: TemporalIoU(threshold=0), "threshold"),
        (lambda: HungarianBoxes(precision=0, recall=0), "precision"),
        (lambda: HungarianBoxes(threshold=0), "threshold"),
        (lambda: Tags(()), "tags"),
        (lambda: Tags(("a", "a")), "tags"),
        (lambda: TurnPattern(turn=("<a>",)), "turn"),
        (lambda: JsonSchema(schema={"type": "nonsense"}), "schema"),
        (lambda: JsonSchema(schema={}, partial=2), "partial"),
        (lambda: LengthWindow(low=5, high=4), "low"),
        (lambda: LengthTarget(target=0), "target"),
        (lambda: Overlong(limit=5, buffer=6), "limit"),
        (lambda: Repetition(n=0), "n"),
    ],
)
def test_bad_settings_are_named(build, named):
    with pytest.raises(ConfigError, match=named):
        build()


@pytest.mark.parametrize(("length", "expected"), [(2, 0), (3, 1), (5, 1), (6, 0)])
def test_length_window_includes_its_ends(length, expected):
    assert total(Case(LengthWindow(low=3, high=5), None, actions=length), "") == expected


@pytest.mark.parametrize(("length", "expected"), [(3, 0), (4, -0.5), (5, -1), (50, -1)])
def test_overlong_falls_linearly_over_the_buffer(length, expected):
    """limit 5, buffer 2: free up to 3; (5 - 2 - 4) / 2 = -1/2 at 4; -1 at and beyond 5."""
    assert total(Case(Overlong(limit=5, buffer=2), None, actions=length), "") == expected


def test_length_target_never_falls_below_minus_one():
    assert total(Case(LengthTarget(target=10), None, actions=10), "") == 1
    assert total(Case(LengthTarget(target=10), None, actions=500), "") == -1


def test_turn_pattern_is_the_share_of_turns_in_their_own_form():
    """Of three turns the first looks like a grounding turn, the second (wrongly) and third like an answer: 2/3."""
    box, end = "<think>a</think><box>[1,2,3,4]</box>", "<think>a</think><answer>b</answer>"
    (score,) = scores(TurnPattern(weight=2), [trajectory(box, end, end)])
    assert score.total == pytest.approx(2 * 2 / 3)


def test_repetition_counts_all_turns_but_not_across_them():
    """ "a b" and "b a" are the bigrams of the turns "a b" and "b a"; "b b" at the seam is none."""
    assert scores(Repetition(n=2), [trajectory("a b", "b a")])[0].total == 0
    assert scores(Repetition(n=2), [trajectory("a b", "a b")])[0].total == -0.5


def test_scoring_changes_nothing_about_the_trajectory():
    one = trajectory("<answer>[10,10,20,20]</answer>", target=[10, 10, 20, 20])
    before = copy.copy(vars(one))
    scores(BoxIoU(), [one])
    assert vars(one) == before


def test_modules_of_rewards_are_all_read_here():
    folder = Path(verify.__file__).parent
    helpers = {"__init__", "parse", "sandbox", "algebra"}
    assert {path.stem for path in folder.glob("*.py")} - helpers == {m.__name__.rpartition(".")[2] for m in MODULES}
