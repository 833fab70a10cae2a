"""The official rules of benchmarks of questions, on cases worked out by hand."""

import base64
import csv
import math

import numpy as np
import pytest

from saccade.core.content import Image, Text, Video, images_of
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Row
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.evaluate.benchmark import benchmark_named
from saccade.evaluate.benchmarks.chartqa import relaxed
from saccade.evaluate.benchmarks.longvideo_reason import LongVideoReason, SameBlock
from saccade.evaluate.benchmarks.mathvista import MathVistaAnswer
from saccade.evaluate.benchmarks.mme import BeginsYesOrNo, MMEScore
from saccade.evaluate.benchmarks.mmmu import MMMUAnswer, parsed_choice, parsed_open
from saccade.evaluate.benchmarks.mmstar import LeadingLetter
from saccade.evaluate.benchmarks.pope import Outcome, PopeAnswer, YesStatistic
from saccade.evaluate.benchmarks.seed_bench_r1 import FirstLetter
from saccade.evaluate.benchmarks.videomme import FirstCapital
from saccade.evaluate.benchmarks.vsi_bench import FirstWord, MeanOfEight, mean_relative_accuracy
from saccade.evaluate.miniatures import png, square, write_table
from saccade.evaluate.rules.questions import EveryForm, Form, complete


def scored(rule, text, **target):
    task = Task("t", (Text("?"),), target)
    (score,) = rule([Trajectory(Prompt(task, task.prompt), [forced_turn((Text(text),), None, 1)])])
    return score.total


# --- rules of one output ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<think>x</think><answer>B</answer>", 1),
        ("<answer> B. open it</answer>", 1),
        ("<answer>The answer is B</answer>", 0),
        ("<answer>A</answer><answer>B</answer>", 0),
        ("B", 0),
        ("<answer>B", 0),
    ],
)
def test_seed_bench_r1_takes_the_first_character_of_the_first_block(text, right):
    assert scored(FirstLetter(), text, answer="B") == right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<think>x</think> <answer> B </answer>", 1),
        ("<answer>Therefore the final answer is: B</answer>", 1),
        ("B", 1),
        ("<answer>B.</answer>", 0),
        ("I say B", 0),
    ],
)
def test_longvideo_reason_compares_the_block_exactly(text, right):
    assert scored(SameBlock(), text, answer="B") == right


@pytest.mark.parametrize(
    ("text", "right"),
    [("b", 1), ("B. cat", 1), ("(B) cat", 1), ("Option B", 1), ("The answer is B", 1), ("It is B", 0), ("bears", 1)],
)
def test_mmstar_looks_at_the_beginning_only(text, right):
    assert scored(LeadingLetter(), text, answer="B") == right


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("The best answer is C.", "C"),
        ("the car is Blue, so A", "B"),
        ("none", None),
        ("The answer is D", "D"),
    ],
)
def test_videomme_takes_the_first_capital_letter(text, letter):
    assert FirstCapital().read(text, {}) == letter


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("YES, it is", "yes"),
        ("no.", "no"),
        ("N", "no"),
        ("y.", "yes"),
        ("Not at all", "no"),  # "no" is among the first four characters
        ("a no", "no"),
        ("It is, yes", None),
        ("", None),
    ],
)
def test_mme_reads_the_first_four_characters(text, answer):
    assert BeginsYesOrNo().read(text, {}) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("No, there is not.", "no"),
        ("There is not a dog. Yes.", "no"),
        ("A dog. No.", "yes"),  # only the first sentence counts
        ("NO", "yes"),  # the words are no, No and not
        ("", "yes"),
    ],
)
def test_pope_says_yes_unless_the_first_sentence_denies(text, answer):
    assert PopeAnswer().read(text, {}) == answer


def test_chartqa_tolerates_five_per_cent_of_numbers_and_no_other_words():
    """|105 - 100| / 100 = 0.05 passes, 105.1 does not; 7.35 % of 7 % is off by 0.05; 0 has no relative error."""
    assert relaxed("105", "100") and not relaxed("105.1", "100") and relaxed("95", "100")
    assert relaxed("7.3%", "7%") and relaxed("0.07", "7%") and not relaxed("7", "7%")
    assert relaxed("Blue", "blue") and not relaxed("dark blue", "blue")
    assert relaxed("0", "0") and not relaxed("0.0", "0")
    assert not relaxed("nan", "3") and relaxed("inf", "inf")


def test_mean_relative_accuracy_counts_tolerances():
    """p = 11, g = 10: error .1 passes 1 - theta = .10, .15, ..., .50: nine of ten. 10.5: all ten. 15: only .50."""
    assert mean_relative_accuracy(11, 10) == pytest.approx(0.9)
    assert mean_relative_accuracy(10.5, 10) == 1
    assert mean_relative_accuracy(15, 10) == pytest.approx(0.1)
    assert mean_relative_accuracy(16, 10) == 0 and mean_relative_accuracy(-10, 10) == 0
    for error in np.linspace(0.001, 0.6, 97):
        loop = sum(error <= 1 - theta / 100 for theta in range(50, 100, 5)) / 10
        assert mean_relative_accuracy(1 + float(error), 1.0) == pytest.approx(loop)


def test_vsi_bench_reads_the_first_word():
    chosen = {"answer": "B", "options": {"A": "left", "B": "right"}}
    assert scored(FirstWord(), "b.", **chosen) == 1 and scored(FirstWord(), "(B)", **chosen) == 0
    number = {"answer": "10", "options": {}}
    assert scored(FirstWord(), "11 metres", **number) == pytest.approx(0.9)
    assert scored(FirstWord(), "about 10", **number) == 0
    assert FirstWord().read("inf", number) is None


# --- MMMU -------------------------------------------------------------------------------------------------------------

FIVE = {"A": "a red square", "B": "a blue disc", "C": "3.5", "D": "none", "E": "all of them"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(A) or rather (D)", "D"),  # the last in brackets
        ("A or D it is", "D"),  # before a blank, the last whole word
        ("Answer:B.", "B"),
        ("So I believe it must be a blue disc", "B"),  # words, from six of them on
        ("a blue disc", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_mmmu_parses_choices(text, letter):
    assert parsed_choice(text, FIVE) == letter


def test_mmmu_parses_the_ends_of_key_sentences_and_their_numbers():
    """The last line has "is " and "=": the shorter end is "5", which as a number is 5.0."""
    assert parsed_open("We add.\nThe result is 2 + 3 = 5.") == [5.0]
    assert set(parsed_open("The answer is 1,234.567 dollars")) == {"1,234.567 dollars", 1234, 234.57}
    assert parsed_open("blue") == ["blue"] and parsed_open("") == []


def test_mmmu_accepts_words_contained_and_numbers_to_two_places():
    open_question = {"options": {}, "answer": ["3.14159"]}
    assert scored(MMMUAnswer(), "The answer is 3.141", **open_question) == 1
    assert scored(MMMUAnswer(), "The answer is 3.15", **open_question) == 0
    assert scored(MMMUAnswer(), "It is a blue disc", options={}, answer=["disc", "circle"]) == 1
    assert scored(MMMUAnswer(), "It is xyz", options={}, answer=["x"]) == 0
    assert scored(MMMUAnswer(), "It is x then", options={}, answer=["x"]) == 1


def test_mmmu_puts_pictures_where_the_text_names_them(tmp_path):
    picture, _ = square(0)
    other, _ = square(1)
    row = {
        "id": "validation_Math_1",
        "question": "Compare <image 2> with <image 1>.",
        "options": "['<image 3>', 'none']",
        "question_type": "multiple-choice",
        "answer": "A",
        **{f"image_{i}": png(picture if i == 1 else other) for i in (1, 2, 3, 4)},
    }
    write_table(tmp_path / "Math" / "validation-0.parquet", [row])
    prompt = benchmark_named("mmmu", str(tmp_path))[0].prompt
    kinds = [part.text if isinstance(part, Text) else "picture" for part in prompt]
    # Picture 4 is not mentioned and comes first.
    assert kinds[:4] == ["picture", "Compare ", "picture", " with "] and kinds[4] == "picture"
    assert kinds[5] == ".\nA. " and kinds[6] == "picture" and kinds[7].startswith("\nB. none\n")
    assert isinstance(prompt[2], Image) and isinstance(prompt[4], Image)
    assert np.array_equal(prompt[4].pixels, np.asarray(picture)) and np.array_equal(prompt[2].pixels, np.asarray(other))


@pytest.mark.parametrize(
    "options",
    ["['a'", "__import__('os').getcwd()", "['a']", "{'a': 1}", "[" * 9000, "['a', ['b']]", "['x', '" + "y" * 70_000],
    ids=range(7),
)
def test_mmmu_options_that_are_no_list_are_named(options, tmp_path):
    row = {
        "id": "validation_Math_1", "question": "?", "options": options, "question_type": "multiple-choice",
        "answer": "A", "image_1": png(square(0)[0]),
    }  # fmt: skip
    write_table(tmp_path / "Math" / "validation-0.parquet", [row])
    with pytest.raises(DataError, match=r"row 1: options: found .* expected a Python list of 2 to 26 texts"):
        len(benchmark_named("mmmu", str(tmp_path)))


# --- MathVista --------------------------------------------------------------------------------------------------------

CHOICES = {"A": "3/11", "B": "8/11", "C": "the larger one"}


@pytest.mark.parametrize(
    ("text", "target", "right"),
    [
        ("The correct answer is (B) 8/11.", {"answer": "8/11", "options": CHOICES}, 1),
        ("8/11", {"answer": "8/11", "options": CHOICES}, 1),
        ("a larger one", {"answer": "the larger one", "options": CHOICES}, 1),  # the nearest choice
        ("A", {"answer": "8/11", "options": CHOICES}, 0),
        ("The answer is 14.", {"answer": "14", "answer_type": "integer"}, 1),
        ("14.9", {"answer": "14", "answer_type": "integer"}, 1),  # cut off, as the authors do
        ("13.9", {"answer": "14", "answer_type": "integer"}, 0),
        ("about 1.449", {"answer": "1.45", "answer_type": "float", "precision": 2}, 1),
        ("about 1.444", {"answer": "1.45", "answer_type": "float", "precision": 2}, 0),
        ("Between [2007, 2008].", {"answer": "[2007, 2008]", "answer_type": "list"}, 1),
        ("[2007.0,2008]", {"answer": "[2007, 2008]", "answer_type": "list"}, 1),
        ("[2008, 2007]", {"answer": "[2007, 2008]", "answer_type": "list"}, 0),
        ("2007 and 2008", {"answer": "[2007, 2008]", "answer_type": "list"}, 0),
        ("", {"answer": "14", "answer_type": "integer"}, 0),
    ],
)
def test_mathvista_brings_answers_to_the_type_of_the_question(text, target, right):
    full = {"options": {}, "answer_type": "text", "precision": 0, **target}
    assert scored(MathVistaAnswer(), text, **full) == right


# --- summaries --------------------------------------------------------------------------------------------------------


def test_mme_adds_accuracy_and_accuracy_plus_of_each_subtask():
    """Count: pictures (1, 1) and (1, 0): accuracy 75, accuracy+ 50, together 125. Color: (0, 0): 0. Sum 125.

    Per picture count has 200 and 50, mean 125, se = |200 - 125| = 75; color has one picture and no error.
    """

    def pair(subtask, picture, *scores):
        return [Form(picture, 2, f"{picture}#{k}", 0, subtask, score) for k, score in enumerate(scores)]

    rows = [*pair("count", "a", 1.0, 1.0), *pair("count", "b", 1.0, 0.0)]
    score = MMEScore(BeginsYesOrNo(), ("count", "color"))
    found = score.compute(rows)
    assert found.value == 125 and found.stderr == pytest.approx(75) and found.n == 2
    assert score.compute([*rows, *pair("color", "c", 0.0, 0.0)]).value == 125
    # A picture with one of its questions asked does not count.
    assert score.compute([*rows, *pair("color", "d", 1.0)]).n == 2
    assert math.isnan(score.compute([]).value)


def test_a_question_is_right_in_all_its_forms_or_wrong():
    """Question p: samples (1, 1) and (1, 0) of two forms: 1 and 0. Question q: (1, 1): 1. r lacks a form. 2 of 3."""
    rows = [
        Form(question, 2, f"{question}/{form}", sample, "", score)
        for question, form, sample, score in [
            ("p", 0, 0, 1.0), ("p", 1, 0, 1.0), ("p", 0, 1, 1.0), ("p", 1, 1, 0.0),
            ("q", 0, 0, 1.0), ("q", 1, 0, 1.0), ("r", 0, 0, 1.0),
        ]
    ]  # fmt: skip
    assert EveryForm(LeadingLetter()).compute(rows).value == pytest.approx(2 / 3)
    assert ("", "r") not in complete(rows)


def test_mmbench_turns_the_options_and_the_right_letter(tmp_path):
    benchmark = benchmark_named("mmbench")
    type(benchmark).write_miniature(tmp_path, 8)
    tasks = list(benchmark_named("mmbench", str(tmp_path)))
    four = [task for task in tasks if task.info["question"] == "0"]
    assert [task.id for task in four] == ["0/0", "0/1", "0/2", "0/3"]
    assert {task.target["options"][task.target["answer"]] for task in four} == {"red"}
    assert sorted(task.target["answer"] for task in four) == ["A", "B", "C", "D"]
    assert len({tuple(task.target["options"].values()) for task in four}) == 4


def test_statistics_of_yes_agree_with_counts():
    """TP 2, FP 1, FN 1, TN 2 of six: precision 2/3, recall 2/3, F1 = 4 / (3 + 3) = 2/3, yes ratio 1/2."""
    table = [(True, True), (True, True), (True, False), (False, True), (False, False), (False, False)]
    rows = [Outcome(str(i), said, true) for i, (said, true) in enumerate(table)]
    values = {
        name: YesStatistic(PopeAnswer(), name).compute(rows).value
        for name in ("precision", "recall", "f1", "yes_ratio")
    }
    assert values == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes_ratio": 1 / 2})
    assert math.isnan(YesStatistic(PopeAnswer(), "precision").compute(rows[3:]).value)


def test_standard_errors_of_ratios_are_those_of_the_linearised_mean():
    """The yes ratio is a mean: its error is that of the mean of 0/1 values. For F1 the spread over resamples agrees."""
    rng = np.random.default_rng(0)
    true = rng.random(400) < 0.5
    said = np.where(rng.random(400) < 0.8, true, ~true)
    rows = [Outcome(str(i), bool(s), bool(t)) for i, (s, t) in enumerate(zip(said, true, strict=True))]
    share = YesStatistic(PopeAnswer(), "yes_ratio").compute(rows)
    assert share.stderr == pytest.approx(said.std(ddof=1) / 20)
    f1 = YesStatistic(PopeAnswer(), "f1").compute(rows)
    resampled = []
    for _ in range(2000):
        i = rng.integers(0, 400, 400)
        resampled.append(2 * (said[i] & true[i]).sum() / (said[i].sum() + true[i].sum()))
    assert f1.stderr == pytest.approx(np.std(resampled), rel=0.06)


def test_vsi_bench_takes_three_levels_of_direction_as_one_task():
    """Directions have means 1, 0 and .5: their mean .5. Counting has 1. Score (.5 + 1) / 2 = .75."""
    rows = [
        ("object_rel_direction_easy", Row("a", 1.0)),
        ("object_rel_direction_medium", Row("b", 0.0)),
        ("object_rel_direction_hard", Row("c", 1.0)),
        ("object_rel_direction_hard", Row("d", 0.0)),
        ("object_counting", Row("e", 1.0)),
    ]
    assert MeanOfEight(FirstWord()).compute(rows).value == pytest.approx(0.75)
    assert math.isnan(MeanOfEight(FirstWord()).compute([]).value)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_table_of_vlmevalkit_may_have_several_pictures_and_pictures_of_other_rows(tmp_path):
    red, green = (base64.b64encode(png(square(i)[0])).decode() for i in (0, 1))
    rows = [
        {"index": "7", "image": red, "question": "One?", "answer": "Yes"},
        {"index": "8", "image": "7", "question": "Its picture?", "answer": "red"},
        {"index": "9", "image": f"['{red}', '{green}']", "question": "Two?", "A": "x", "B": "y", "answer": "B"},
        {"index": "10", "image": green, "question": "Hidden?", "A": "x", "B": "y"},
    ]
    with (tmp_path / "Any.tsv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["index", "image", "question", "A", "B", "answer"], delimiter="\t", restval="")
        table.writeheader()
        table.writerows(rows)
    tasks = list(benchmark_named("vlmevalkit", str(tmp_path)))
    assert [sum(isinstance(part, Image) for part in task.prompt) for task in tasks] == [1, 1, 2, 1]
    first, second = (images_of(task.prompt)[0].pixels for task in tasks[:2])
    assert np.array_equal(first, second)
    assert [task.target and task.target["answer"] for task in tasks] == ["yes", "red", "B", None]
    (tmp_path / "two").mkdir()
    for name in "ab":
        (tmp_path / "two" / f"{name}.tsv").write_text("index\n")
    with pytest.raises(DataError, match=r"found 2 \.tsv files"):
        len(benchmark_named("vlmevalkit", str(tmp_path / "two")))


def test_videos_are_found_where_their_archives_unpack_and_have_as_many_frames_as_asked(tmp_path):
    pytest.importorskip("av")
    kind = LongVideoReason
    kind.write_miniature(tmp_path, 2)
    (tmp_path / "longvila_videos").rename(tmp_path / "longvideo_eval_subset4")
    task = kind(data=str(tmp_path), frames=3)[0]
    assert isinstance(task.prompt[0], Video) and len(task.prompt[0].frames) == 3
    with pytest.raises(ConfigError, match="frames must be >= 1"):
        kind(frames=0)
    (tmp_path / "longvideo_eval_subset4" / "film1.mp4").unlink()
    (tmp_path / "longvideo_eval_subset4.tar.gz").touch()
    with pytest.raises(DataError, match=r"row 2: videos: found no file .*; longvideo_eval_subset4.tar.gz stands there"):
        len(kind(data=str(tmp_path)))


def test_pairs_of_mme_are_checked(tmp_path):
    row = {
        "question_id": "count/1.png",
        "image": png(square(0)[0]),
        "question": "?",
        "answer": "Yes",
        "category": "count",
    }
    write_table(tmp_path / "data" / "test-0.parquet", [row] * 3)
    with pytest.raises(DataError, match=r"row 1: question_id: found 'count/1.png' 3 times in count, expected two"):
        len(benchmark_named("mme", str(tmp_path)))
