"""GenEval's clauses on detections made by hand."""

import json
import math

import pytest
from benchmark_cases import answered, error_of, grey, on_task, score_of

from saccade.core.errors import ConfigError
from saccade.core.trajectory import Task
from saccade.evaluate.benchmarks.geneval import GenEval, GenEvalCorrect, judge, objects, relations, summary, verdict
from saccade.evaluate.rules.judges import Detection


def at(name, x, y, size=20.0, score=0.95):
    return Detection(name, score, (x - size / 2, y - size / 2, x + size / 2, y + size / 2))


def found(*detections):
    listed = {}
    for one in detections:
        listed.setdefault(one.name, []).append(one)
    return listed


def right(clauses, *detections, **colours):
    return verdict(clauses, found(*detections), colours).correct


def test_objects_must_be_there():
    clauses = {"include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1}]}
    assert right(clauses, at("cat", 0, 0), at("dog", 9, 9))
    assert verdict(clauses, found(at("cat", 0, 0)), {}).reasons == ("expected dog>=1, found 0",)


def test_counting_takes_the_include_clause_as_least_and_the_exclude_clause_as_most():
    """Two cats: at least 2 by include, fewer than 3 by exclude."""
    clauses = {"include": [{"class": "cat", "count": 2}], "exclude": [{"class": "cat", "count": 3}]}
    assert [right(clauses, *[at("cat", 30 * i, 0) for i in range(n)]) for n in range(5)] == [0, 0, 1, 0, 0]


def test_counting_has_a_higher_threshold_and_no_class_more_than_sixteen_objects():
    """Scores must exceed 0.3, for counting 0.9; a score equal to the threshold is not enough."""
    listed = [at("cat", 0, 0, score=s) for s in (0.29, 0.3, 0.31, 0.9, 0.91)]
    assert [one.score for one in objects(listed, "two_object")["cat"]] == [0.91, 0.9, 0.31]
    assert [one.score for one in objects(listed, "counting")["cat"]] == [0.91]
    many = [at("cat", i, 0, score=0.5 + i / 100) for i in range(20)]
    kept = objects(many, "colors")["cat"]
    assert len(kept) == 16 and kept[0].score == 0.69
    assert objects([at("cat", 0, 0, score=0.1)], "colors") == {}


def test_colours_count_only_among_the_surest_objects():
    clauses = {"include": [{"class": "car", "count": 1, "color": "red"}]}
    cars = (at("car", 0, 0), at("car", 50, 0, score=0.5))
    assert right(clauses, *cars, car=["red", "blue"])
    assert not right(clauses, *cars, car=["blue", "red"])
    two = {"include": [{"class": "car", "count": 2, "color": "red"}]}
    assert right(two, *cars, car=["red", "red"]) and not right(two, *cars, car=["red", "blue"])


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (-30, 0, {"left of"}),
        (30, 0, {"right of"}),
        (0, -30, {"above"}),
        (0, 30, {"below"}),
        # Sizes 20 + 20 give a dead zone of 0.1 * 40 = 4 pixels on each axis.
        (4, 0, set()),
        (-4, 4, set()),
        # (10 - 4) / 10 = 0.6 > 0.5; (7 - 4) / 7 = 0.43 is not.
        (10, 0, {"right of"}),
        (7, 0, set()),
        # (30 - 4) / (30 sqrt 2) = 0.61 on both axes.
        (30, 30, {"right of", "below"}),
        # (30 - 4) / 33.5 = 0.78; (15 - 4) / 33.5 = 0.33.
        (30, -15, {"right of"}),
        (0, 0, set()),
    ],
)
def test_relative_positions_have_a_dead_zone_and_take_half_of_the_offset(x, y, expected):
    assert relations(at("a", 100 + x, 100 + y).box, at("b", 100, 100).box) == expected


def test_positions_are_those_of_the_clause_that_they_point_to():
    clauses = {
        "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["left of", 0]}]
    }  # fmt: skip
    dog = at("dog", 100, 50)
    assert right(clauses, dog, at("cat", 20, 50))
    assert not right(clauses, dog, at("cat", 180, 50))
    without = verdict(clauses, found(at("cat", 20, 50)), {})
    assert without.reasons == ("expected dog>=1, found 0", "no target for cat to be left of")


def test_only_the_surest_object_must_be_in_place():
    clauses = {
        "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["above", 0]}]
    }  # fmt: skip
    good, bad = at("cat", 100, 0, score=0.9), at("cat", 100, 200, score=0.8)
    assert right(clauses, at("dog", 100, 100), good, bad)
    assert not right(clauses, at("dog", 100, 100), bad, good)


class Eyes:
    """A detector that sees what it is told."""

    names = ("cat", "dog", "car", "mouse")

    def __init__(self, *seen):
        self.seen = list(seen)

    def __call__(self, image):
        return self.seen


def test_a_picture_is_judged_by_detector_and_colour_classifier():
    clauses = {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "red"}]}
    asked = []

    def colours(image, those, name):
        asked.append((name, [one.score for one in those]))
        return ["red"] * len(those)

    assert judge(grey(), clauses, Eyes(at("car", 5, 5, score=0.4), at("car", 9, 9, score=0.8)), colours).correct
    assert asked == [("car", [0.8])], "only the object that counts is classified"
    with pytest.raises(ConfigError, match="classifier must name a CLIP"):
        judge(grey(), clauses, Eyes(), None)


def test_classes_that_the_detector_does_not_know_are_no_silent_misses():
    clauses = {"tag": "single_object", "include": [{"class": "zebra", "count": 1}]}
    with pytest.raises(ConfigError, match="must know the class 'zebra'"):
        judge(grey(), clauses, Eyes(), None)
    other_name = {"tag": "single_object", "include": [{"class": "computer mouse", "count": 1}]}
    assert judge(grey(), other_name, Eyes(at("mouse", 5, 5)), None).correct


def test_without_weights_the_score_says_what_to_give():
    clauses = {"tag": "single_object", "include": [{"class": "cat", "count": 1}]}
    one = on_task(Task("x", (), clauses), grey())
    with pytest.raises(ConfigError, match=r"^detector must name a Mask2Former .* got ''$"):
        GenEvalCorrect().score(one)
    with pytest.raises(ConfigError, match=r"^detector must name .*'no/where'"):
        GenEvalCorrect(detector="no/where").score(one)


# --- the authors' results -------------------------------------------------------------------------------------------


def test_the_authors_results_are_summarised_as_the_mean_of_six_task_means(tmp_path):
    """single_object 3 of 4, counting 1 of 2, colors 0 of 2: overall (3/4 + 1/2 + 0) / 3 = 5/12; pictures 4/8.

    Prompts with any right picture: a, b of single_object, c of counting, not d: 3/4.
    """
    listed = [
        ("single_object", "a", [True, True]), ("single_object", "b", [True, False]), ("counting", "c", [True, False]),
        ("colors", "d", [False, False]),
    ]  # fmt: skip
    rows = [
        {"filename": f"{p}/{i}.png", "tag": tag, "prompt": p, "correct": ok, "reason": "", "metadata": f'{{"{p}"}}'}
        for tag, p, oks in listed
        for i, ok in enumerate(oks)
    ]
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    told = summary(path)
    assert told["overall"].value == pytest.approx(5 / 12)
    assert told["images"].value == 0.5 and told["images"].n == 8
    assert told["prompts"].value == 0.75
    assert told["single_object"].value == 0.75 and told["colors"].value == 0
    # The errors of the tasks' means: se(single) with clusters a, b; one cluster alone has none.
    assert math.isnan(told["counting"].stderr)
    path.write_text(json.dumps({**rows[0], "correct": 1}))
    error_of(lambda: summary(path), path, 1, "correct")


# --- files ----------------------------------------------------------------------------------------------------------


def test_prompts_are_also_found_where_the_repository_has_them(tmp_path):
    GenEval.write_miniature(tmp_path / "prompts", 6)
    benchmark = GenEval(data=str(tmp_path))
    assert [benchmark[i].info["category"] for i in range(6)] == [
        "single_object", "two_object", "counting", "colors", "position", "color_attr",
    ]  # fmt: skip
    assert benchmark[4].target["include"][1]["position"] == ["left of", 0]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tag": "shapes"}, "tag"),
        ({"include": []}, "include"),
        ({"include": [{"class": "cat"}]}, "include[0].count"),
        ({"include": ["cat"]}, "include[0]"),
        ({"include": [{"class": "cat", "count": 1, "color": "teal"}]}, "include[0].color"),
        ({"include": [{"class": "cat", "count": 1, "position": ["left of", 0]}]}, "include[0].position"),
        ({"include": [{"class": "a", "count": 1}, {"class": "b", "count": 1, "position": ["near", 0]}]},
         "include[1].position"),
        ({"exclude": [{"class": "cat", "count": 0}]}, "exclude[0].count"),
        ({"prompt": ""}, "prompt"),
    ],
)  # fmt: skip
def test_wrong_clauses_are_named(tmp_path, change, field):
    GenEval.write_miniature(tmp_path, 3)
    path = tmp_path / "evaluation_metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1] |= change
    path.write_text("\n".join(map(json.dumps, rows)))
    error_of(lambda: len(GenEval(data=str(tmp_path))), path, 2, field)


def test_a_picture_of_the_right_thing_is_right_with_real_networks(tmp_path):
    """A random Mask2Former sees something: whatever it is surest of makes the prompt for it right."""
    import judge_checkpoints

    folder = judge_checkpoints.mask2former(tmp_path / "m")
    clip = judge_checkpoints.clip(tmp_path / "c")
    from saccade.evaluate.rules.judges import load_colours, load_detector

    picture = grey()
    surest = load_detector(str(folder))(picture)[0]
    assert surest.score > 0.3, "else the checkpoint tests nothing"
    include = {"class": surest.name, "count": 1}
    task = Task("x", (), {"tag": "colors", "include": [include], "prompt": ""})
    reward = GenEvalCorrect(detector=str(folder), classifier=str(clip))
    assert score_of(reward, on_task(task, picture)) == 1
    absent = next(name for name in judge_checkpoints.COCO_LIKE if name not in _seen(folder, picture))
    task = Task("x", (), {"tag": "colors", "include": [{"class": absent, "count": 1}], "prompt": ""})
    assert score_of(reward, on_task(task, picture)) == 0
    (colour,) = load_colours(str(clip))(picture, [surest], surest.name)
    for other, expected in ((colour, 1), ("red" if colour != "red" else "blue", 0)):
        task = Task("x", (), {"tag": "colors", "include": [{**include, "color": other}], "prompt": ""})
        assert score_of(reward, on_task(task, picture)) == expected
    assert score_of(reward, on_task(task, "no picture")) == 0


def _seen(folder, picture):
    from saccade.evaluate.rules.judges import load_detector

    return {one.name for one in load_detector(str(folder))(picture) if one.score > 0.3}


def test_the_benchmark_hands_its_checkpoints_to_the_rule(tmp_path):
    GenEval.write_miniature(tmp_path, 1)
    benchmark = GenEval(data=str(tmp_path), detector="some/where")
    with pytest.raises(ConfigError, match="'some/where'"):
        benchmark.rule([answered(benchmark, 0, grey())])
