"""VBench's flickering, its normalisation and weights, and the results that its program writes."""

import json

import numpy as np
import pytest
from benchmark_cases import answered, column, error_of

from saccade.core.content import Video
from saccade.core.errors import ConfigError, DataError
from saccade.core.trajectory import Prompt, Trajectory, forced_turn
from saccade.evaluate.benchmarks.vbench import QUALITY, SEMANTIC, VBench, final_scores, flickering, read_results
from saccade.evaluate.samples import totals


def video(*levels):
    return Video(np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels]))


def test_flickering_is_one_minus_the_mean_absolute_difference_of_successive_frames():
    """Differences 51 and 0 of 255: 1 - (51 + 0) / 2 / 255 = 0.9; downwards counts like upwards, without wrapping."""
    assert flickering(video(0, 51, 51).frames) == pytest.approx(0.9)
    assert flickering(video(51, 0, 0).frames) == pytest.approx(0.9)
    assert flickering(video(255, 0).frames) == 0
    assert flickering(video(7).frames) == flickering(video(7, 7, 7).frames) == 1


def test_the_total_normalises_each_dimension_and_weighs_quality_four_times():
    """All at their upper bound give 1; at the lower 0. Only dynamic degree at its bound: 0.5 / 6.5 of the quality."""
    high = {name: one.high for name, one in (QUALITY | SEMANTIC).items()}
    low = {name: one.low for name, one in (QUALITY | SEMANTIC).items()}
    assert final_scores(high) == pytest.approx({"quality": 1, "semantic": 1, "total": 1})
    assert final_scores(low) == pytest.approx({"quality": 0, "semantic": 0, "total": 0})
    moving = final_scores({**low, "dynamic_degree": 1.0})
    assert moving["quality"] == pytest.approx(0.5 / 6.5) and moving["total"] == pytest.approx(0.8 * 0.5 / 6.5)
    scene = final_scores({**low, "scene": 0.4111})
    assert scene["semantic"] == pytest.approx(0.5 / 9) and scene["total"] == pytest.approx(0.5 / 9 / 5)


def test_a_published_model_s_scores_come_out():
    """A row of the public leaderboard's kind, worked out by hand in the docstring's formula with a plain loop."""
    means = {
        "subject_consistency": 0.9, "background_consistency": 0.95, "temporal_flickering": 0.98,
        "motion_smoothness": 0.97, "dynamic_degree": 0.4, "aesthetic_quality": 0.55, "imaging_quality": 0.6,
        "object_class": 0.8, "multiple_objects": 0.4, "human_action": 0.9, "color": 0.85, "spatial_relationship": 0.35,
        "scene": 0.4, "appearance_style": 0.22, "temporal_style": 0.25, "overall_consistency": 0.26,
    }  # fmt: skip
    quality = (
        (0.9 - 0.1462) / 0.8538 + (0.95 - 0.2615) / 0.7385 + (0.98 - 0.6293) / 0.3707 + (0.97 - 0.706) / 0.2915
        + 0.5 * 0.4 + 0.55 + 0.6
    ) / 6.5  # fmt: skip
    semantic = (
        0.8 + 0.4 + 0.9 + 0.85 + 0.35 + 0.4 / 0.8222 + (0.22 - 0.0009) / 0.2846 + 0.25 / 0.364 + 0.26 / 0.364
    ) / 9
    found = final_scores(means)
    assert found["quality"] == pytest.approx(quality) and found["semantic"] == pytest.approx(semantic)
    assert found["total"] == pytest.approx((4 * quality + semantic) / 5)


def test_missing_dimensions_are_not_counted_as_nothing():
    with pytest.raises(ConfigError, match="missing: subject_consistency, background_consistency"):
        final_scores({"color": 0.5})


def results(folder, **dimensions):
    folder.mkdir(exist_ok=True)
    for name, (mean, videos) in dimensions.items():
        listed = [{"video_path": f"some/where/{video}.mp4", "video_results": value} for video, value in videos.items()]
        (folder / f"{name}_eval_results.json").write_text(json.dumps({name: [mean, listed]}))
    (folder / "x_full_info.json").write_text(json.dumps([{"prompt_en": "a cat"}]))
    return folder


def test_the_k_th_trajectory_gets_what_the_program_says_of_the_k_th_video(tmp_path):
    VBench.write_miniature(tmp_path, 1)
    videos = {"a cat number 0-0": 0.9, "a cat number 0-1": 0.7}
    folder = results(
        tmp_path / "r", motion_smoothness=(0.8, videos), imaging_quality=(0.65, {"a cat number 0-0": 65.0}),
        dynamic_degree=(0.5, {"a cat number 0-0": True, "a cat number 0-1": False}),
    )  # fmt: skip
    benchmark = VBench(data=str(tmp_path), part="motion_smoothness", results=str(folder))
    task = benchmark[0]
    prompt = Prompt(task, task.prompt)
    group = [Trajectory(prompt, [forced_turn((video(1, 2),), None, 1)]) for _ in range(2)]
    assert totals(benchmark.rule, [group]) == [[0.9, 0.7]]
    assert column(benchmark, "motion_smoothness", [group]).value == pytest.approx(0.8)
    read = read_results(folder)
    assert read["imaging_quality"].videos == {"a cat number 0-0": 0.65} and read["imaging_quality"].mean == 0.65
    assert read["dynamic_degree"].videos == {"a cat number 0-0": 1, "a cat number 0-1": 0}
    with pytest.raises(DataError, match="found no video 'a cat number 0-2'"):
        totals(benchmark.rule, [[*group, group[0]]])
    other = VBench(data=str(tmp_path), part="color", results=str(folder))
    with pytest.raises(DataError, match="color: found no such dimension"):
        totals(other.rule, [group])


def test_dimensions_that_need_a_network_say_what_to_give(tmp_path):
    VBench.write_miniature(tmp_path, 1)
    for part in (*QUALITY, *SEMANTIC):
        benchmark = VBench(data=str(tmp_path), part=part)
        one = answered(benchmark, 0, video(0, 51, 51))
        if part == "temporal_flickering":
            assert totals(benchmark.rule, [[one]]) == [[pytest.approx(0.9)]]
            assert totals(benchmark.rule, [[answered(benchmark, 0, "words")]]) == [[0]]
        else:
            with pytest.raises(ConfigError, match=f"results must name the results .* of {part}, got ''"):
                benchmark.rule([one])
    with pytest.raises(ConfigError, match="results must name a file or folder"):
        read_results(tmp_path / "none")


def test_only_prompts_of_the_dimension_are_tasks(tmp_path):
    VBench.write_miniature(tmp_path, 4)
    path = tmp_path / "VBench_full_info.json"
    rows = json.loads(path.read_text())
    rows[0]["dimension"] = ["color"]
    rows[2]["dimension"] = ["object_class", "color"]
    path.write_text(json.dumps(rows))
    benchmark = VBench(data=str(tmp_path), part="object_class")
    assert [task.id for task in benchmark] == ["0002", "0003", "0004"]
    assert benchmark[1].target == {"prompt": "a car number 2", "auxiliary": {"object": "car"}}
    rows[3]["dimension"] = ["beauty"]
    path.write_text(json.dumps(rows))
    error_of(lambda: len(VBench(data=str(tmp_path))), path, 4, "dimension")


def test_results_that_are_not_the_program_s_are_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"color": [0.5, [{"video_path": "x-0.mp4"}]]}))
    error_of(lambda: read_results(path), path, 1, "video_results")
    path.write_text(json.dumps({"color": 0.5}))
    error_of(lambda: read_results(tmp_path), path, 1, "color")
