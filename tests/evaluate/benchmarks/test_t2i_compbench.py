"""T2I-CompBench's rules on detections and probabilities made by hand."""

import judge_checkpoints
import pytest
from benchmark_cases import answered, column, error_of, grey, score_of

from saccade.core.errors import ConfigError
from saccade.evaluate.benchmarks.t2i_compbench import (
    T2ICompBench,
    distinct,
    noun_phrases,
    numeracy_score,
    placed,
    product,
    spatial_score,
)
from saccade.evaluate.rules.judges import Detection, load_answers, load_clip, load_detector


def at(x, y, size=100.0):
    return (x - size / 2, y - size / 2, x + size / 2, y + size / 2)


@pytest.mark.parametrize(
    ("relation", "x", "y", "expected"),
    [
        ("on the left of", 300, 0, 1.0),  # b is 300 to the right of a
        ("on the left of", -300, 0, 0.0),
        ("on the left of", 300, 300, 0.0),  # the offset must be the larger one, not equal
        ("on the left of", 300, 299, 1.0),
        ("on the right of", -300, 50, 1.0),
        ("on the right of", 300, 50, 0.0),
        ("on the top of", 0, 300, 1.0),
        ("on the bottom of", 0, -300, 1.0),
        ("on the bottom of", 0, 300, 0.0),
        ("on top of", 0, 300, 0.0),  # the authors look for it and then have no rule
        ("next to", 149, 900, 1.0),  # near on one axis is enough
        ("next to", 300, 600, 150 / 600),
        ("near", 150, 150, 1.0),  # 150 / max(150, 150)
        ("on side of", 200, 160, 150 / 200),
        # Boxes of side 100, 50 apart: IoU = 5000 / 15000 = 1/3, so 0.1 / (1/3) = 0.3.
        ("on the left of", 50, 0, 0.3),
        # 90 apart: IoU = 1000 / 19000 < 0.1.
        ("on the left of", 90, 0, 1.0),
    ],
)
def test_places_are_scored_by_offset_and_overlap(relation, x, y, expected):
    assert placed(relation, at(0, 0), at(x, y)) == pytest.approx(expected)


def test_spatial_scores_are_quarters_of_confidence_and_half_of_the_place_and_nothing_below_a_half():
    """0.25 * 0.9 + 0.25 * 0.7 + 0.5 * 1 = 0.9; misplaced: 0.4 < 0.5 counts as 0; one object alone at most 0.25."""
    cat, dog = Detection("cat", 0.9, at(0, 0)), Detection("dog", 0.7, at(300, 0))
    assert spatial_score([cat, dog], "cat", "on the left of", "dog") == pytest.approx(0.9)
    assert spatial_score([cat, dog], "cat", "on the right of", "dog") == 0
    assert spatial_score([cat], "cat", "on the left of", "dog") == 0
    # 0.25 + 0.25 + 0 is exactly one half, which counts.
    sure = [Detection("cat", 1.0, at(0, 0)), Detection("dog", 1.0, at(300, 0))]
    assert spatial_score(sure, "cat", "on the right of", "dog") == pytest.approx(0.5)
    # The surest object of a name counts: this second dog stands on the other side.
    assert spatial_score([cat, dog, Detection("dog", 0.1, at(-300, 0))], "cat", "on the left of", "dog") > 0.8


def test_numbers_give_half_for_being_there_and_half_for_the_right_number():
    """Two cats and one dog wanted. Seen two cats, two dogs: (1 + 0.5) / 2; one cat only: (0.5 + 0) / 2."""
    cats = [Detection("cat", 0.9, at(200 * i, 0)) for i in range(2)]
    dogs = [Detection("dog", 0.9, at(200 * i, 500)) for i in range(2)]
    wanted = [("cat", 2), ("dog", 1)]
    assert numeracy_score([*cats, *dogs], wanted) == pytest.approx(0.75)
    assert numeracy_score([*cats, dogs[0]], wanted) == 1
    assert numeracy_score(cats[:1], wanted) == pytest.approx(0.25)
    assert numeracy_score([], wanted) == 0
    assert numeracy_score([Detection("dining table", 0.9, at(0, 0))], [("table", 1)]) == 1


def test_the_same_object_is_counted_once():
    """Sides 100 and 98 around one centre: 99^2 / 101^2 = 0.96 of the area; 50 apart is another object."""
    first = Detection("cat", 0.9, at(0, 0))
    same, inside = Detection("cat", 0.8, at(0, 0, 98)), Detection("cat", 0.7, at(10, 10, 20))
    dog, other = Detection("dog", 0.8, at(0, 0)), Detection("cat", 0.6, at(50, 0))
    assert distinct([first, same, inside, dog, other]) == [first, dog, other]
    assert numeracy_score([first, same, other], [("cat", 2)]) == 1


@pytest.mark.parametrize(
    ("prompt", "phrases"),
    [
        ("a green bench and a blue bowl", ("a green bench", "a blue bowl")),
        ("an oval mirror and a square table", ("an oval mirror", "a square table")),
        ("A bathroom with green tile and a red shower curtain.", ("A bathroom", "green tile", "a red shower curtain")),
        ("Two toilet stall, one blue and the other orange.", ("Two toilet stall", "one blue", "the other orange")),
        ("a red school bus and a green bag", ("a red school bus", "a green bag")),
        ("and of the", ()),
        (" and ".join(["a cat"] * 12), ("a cat",) * 8),
    ],
)
def test_noun_phrases_are_what_stands_between_articles_and_linking_words(prompt, phrases):
    assert noun_phrases(prompt) == phrases


def test_attributes_are_the_product_of_probabilities():
    assert product([0.5, 0.8, 1.0]) == pytest.approx(0.4)


def test_prompts_become_targets(tmp_path):
    T2ICompBench.write_miniature(tmp_path / "examples" / "dataset", 8)
    root = str(tmp_path)
    assert T2ICompBench(data=root)[0].target == {"phrases": ("a green cat", "a white bench")}
    assert T2ICompBench(data=root, part="spatial")[3].target == {
        "first": "bench", "relation": "on the left of", "second": "clock",
    }  # fmt: skip
    assert T2ICompBench(data=root, part="numeracy")[3].target == {"counts": (("bench", 2), ("clock", 1))}


def test_real_networks_score_pictures_of_each_part(tmp_path):
    """Random networks: the score is the formula's on whatever they say."""
    T2ICompBench.write_miniature(tmp_path, 8)
    blip, clip = judge_checkpoints.blip(tmp_path / "b"), judge_checkpoints.clip(tmp_path / "c")
    eyes = judge_checkpoints.mask2former(tmp_path / "m")
    picture = grey()
    colour = T2ICompBench(data=str(tmp_path), answerer=str(blip))
    one = answered(colour, 0, picture)
    wanted = product(load_answers(str(blip))(picture, ["a green cat?", "a white bench?"]))
    assert score_of(colour.rule, one) == pytest.approx(wanted)
    assert column(colour, "score", [[one]]).value == pytest.approx(wanted)
    action = T2ICompBench(data=str(tmp_path), part="non_spatial", clip=str(clip))
    cosine = load_clip(str(clip)).cosine(picture, "A person is looking at a cat and a bench.")
    assert score_of(action.rule, answered(action, 0, picture)) == pytest.approx(cosine)
    numbers = T2ICompBench(data=str(tmp_path), part="numeracy", detector=str(eyes))
    seen = [one for one in load_detector(str(eyes))(picture) if one.score >= 0.5]
    for i in range(8):
        wanted = numeracy_score(seen, numbers[i].target["counts"])
        assert score_of(numbers.rule, answered(numbers, i, picture)) == pytest.approx(wanted)
    for benchmark in (colour, action, numbers):
        assert score_of(benchmark.rule, answered(benchmark, 0, "no picture")) == 0


def test_objects_that_the_detector_does_not_know_are_no_silent_zero(tmp_path):
    T2ICompBench.write_miniature(tmp_path, 8)
    eyes = judge_checkpoints.mask2former(tmp_path / "m", names=("cat", "dining table"))
    benchmark = T2ICompBench(data=str(tmp_path), part="spatial", detector=str(eyes))
    with pytest.raises(ConfigError, match="detector must know the class 'bench'"):
        benchmark.rule([answered(benchmark, 0, grey())])


@pytest.mark.parametrize(
    ("part", "line"),
    [("color", "of the and"), ("spatial", "a cat and a dog"), ("spatial", "next to a dog"), ("numeracy", "two zebras")],
)
def test_prompts_that_say_nothing_of_the_part_are_named(tmp_path, part, line):
    T2ICompBench.write_miniature(tmp_path, 3)
    path = tmp_path / f"{part}_val.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, lines[2]]))
    message = error_of(lambda: len(T2ICompBench(data=str(tmp_path), part=part)), path, 2, "prompt")
    assert repr(line) in message


def test_a_plural_without_its_singular_is_named(tmp_path):
    T2ICompBench.write_miniature(tmp_path, 3)
    path = tmp_path / "new_objects.txt"
    path.write_text(path.read_text() + "mice\n")
    error_of(lambda: len(T2ICompBench(data=str(tmp_path), part="numeracy")), path, 9, "names")
