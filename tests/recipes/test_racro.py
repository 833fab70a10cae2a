"""RACRO: the frozen solver, the caption that is worth its answer, the scenes, two steps."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from saccade.core import config
from saccade.core.content import Text, text_of
from saccade.core.errors import ConfigError
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.envs.datasets.canvas import PALETTE
from saccade.envs.datasets.coloured_counts import ColouredCounts
from saccade.envs.datasets.glyphs import indices
from saccade.experiment import start_policy
from saccade.learn.loop import Run, train
from saccade.recipes.vlm.racro import Distracted, Mentioned, PhraseSolver, SkimmingSolver, Truthful, racro
from saccade.rewards.learned import Downstream, Solver
from saccade.rewards.text import Rouge
from saccade.rewards.verify import ExactMatch

MINUS, PLUS = "how many red minus blue?", "how many red and blue together?"


@dataclass(frozen=True)
class Echo(Solver):
    def solve(self, texts, questions):
        return [f"{text} {question}" for text, question in zip(texts, questions, strict=True)]


def captioned(task: Task, text: str) -> Trajectory:
    return Trajectory(Prompt(task, task.prompt), [forced_turn((Text(text),), None, 1)])


@pytest.mark.parametrize(
    ("caption", "minus", "plus"),
    [
        ("red 2, blue 3", "-1", "5"),
        ("blue 3, green 9, red 2", "-1", "5"),  # order and other colours do not matter
        ("3 blue, 2 Red.", "-1", "5"),  # nor does which of colour and number comes first
        ("red 2, red 2, blue 0", "2", "2"),  # saying it twice is no contradiction
        ("red 2, green 1", "unknown", "unknown"),  # nothing about blue
        ("red 2, red 1, blue 3", "unknown", "unknown"),  # two numbers for red
        ("red blue 2 3", "unknown", "unknown"),
        ("red two, blue 3", "unknown", "unknown"),
        ("red -2, blue 3", "unknown", "unknown"),
        ("5", "unknown", "unknown"),  # an answer is no caption
        ("", "unknown", "unknown"),
    ],
)
def test_solver_reads_phrases_and_nothing_else(caption, minus, plus):
    assert PhraseSolver().solve([caption, caption], [MINUS, PLUS]) == [minus, plus]


@pytest.mark.parametrize(
    ("caption", "minus"),
    [
        ("red 2, blue 3", "-1"),
        ("red 2, green 1", "2"),  # no blue means that there is none
        ("red there are 2 blue some 3", "-1"),
        ("red 2, red 1, blue 3", "-2"),  # the last one counts
        ("3 blue, 2 red", "-2"),  # the number after blue is 2, none follows red
        ("", "0"),
    ],
)
def test_other_solver_has_another_grammar(caption, minus):
    assert SkimmingSolver().solve([caption], [MINUS]) == [minus]


@pytest.mark.parametrize("solver", [PhraseSolver(), SkimmingSolver()])
def test_solvers_take_any_text(solver):
    texts = ["red " * 20000, "9" * 50000, "red " + "7" * 5000, "\x00,,;\n", "²red ²", "red ٣, blue 3"]
    assert len(solver.solve(texts, [PLUS] * len(texts))) == len(texts)
    assert PhraseSolver().solve(["red 2, blue 1"], ["what is this?"]) == ["unknown"]


def test_reward_is_whether_the_solver_is_right():
    """Both asked and right: 1. A wrong count, a colour left out, the bare answer: 0. Other colours may be wrong."""
    task = Task("t", (Text(MINUS),), {"answer": "-1", "caption": "green 4"})
    captions = ["red 2, blue 3", "green 7, red 0, blue 1", "red 2, blue 2", "red 2, green 4", "-1", ""]
    paid = racro("tiny").rewards["solved"]([captioned(task, text) for text in captions])
    assert [score.total for score in paid] == [1, 1, 0, 0, 0, 0]


def test_without_the_mechanism_words_of_the_reference_caption_are_paid():
    """Reference "green 4, red 2" has 4 words. "red 2, blue 3" shares 2 of its 4: F = 2 * 2 / (4 + 4) = 0.5."""
    recipe = racro("tiny")
    metric = config.overlay(recipe, recipe.ablation.without).rewards["solved"]
    assert isinstance(metric, Rouge)
    task = Task("t", (Text(MINUS),), {"answer": "-1", "caption": "green 4, red 2"})
    paid = metric([captioned(task, text) for text in ("red 2, blue 3", "green 4, red 2", "blue 3")])
    assert paid == pytest.approx([0.5, 1.0, 0.0])


def test_gold_is_solved_and_answers_follow_from_the_counts():
    rewards = racro("tiny").rewards
    for task in ColouredCounts()[:60]:
        (first, second), counts = task.info["asked"], task.info["counts"]
        minus = "minus" in task.prompt[1].text
        assert int(task.target["answer"]) == counts[first] + (-1 if minus else 1) * counts[second]
        gold = captioned(task, task.gold[0][0].text)
        assert rewards["solved"]([gold])[0].total == 1.0
        assert Mentioned().rows([[gold]], None)[0].value == 1.0
        assert Truthful().rows([[gold]], None)[0].value == 1.0


def test_metrics_tell_what_was_mentioned_from_what_was_right():
    """Of red and blue, red is mentioned: 1/2. Of red 1, green 2, only green is right: 1/2."""
    task = Task("t", (Text(MINUS),), None, (), {"asked": ("red", "blue"), "counts": {"red": 2, "green": 2, "blue": 3}})
    said = captioned(task, "red 1, green 2")
    assert Mentioned().rows([[said]], None)[0].value == 0.5
    assert Truthful().rows([[said]], None)[0].value == 0.5
    assert Truthful().rows([[captioned(task, "nothing")]], None) == []


def test_captions_of_people_are_right_about_three_colours_and_miss_the_question():
    """Both of two asked colours are among 3 of 5 with probability C(3, 1) / C(5, 3) = 3 / 10."""
    tasks = ColouredCounts()[:600]
    said = [PhraseSolver().counts(task.target["caption"]) for task in tasks]
    assert all(len(one) == 3 for one in said)
    assert all(n == {task.info["counts"][c]} for task, one in zip(tasks, said, strict=True) for c, n in one.items())
    both = [set(task.info["asked"]) <= one.keys() for task, one in zip(tasks, said, strict=True)]
    assert np.mean(both) == pytest.approx(0.3, abs=0.06)


def test_demonstrations_heed_the_question_as_often_as_they_should():
    tasks, random = ColouredCounts()[:400], np.random.default_rng(0)
    heeded = [Distracted(heeded=0.25)(task, random) == task.gold for task in tasks]
    assert np.mean(heeded) == pytest.approx(0.25, abs=0.07)
    assert Distracted(heeded=0.0)(tasks[0], random)[0][0].text == tasks[0].target["caption"]


def test_pictures_show_as_many_digits_of_a_colour_as_the_counts_say():
    """Every cell of 16 pixels holds one digit or none; a digit's ink is much brighter than the bare background."""
    for task in ColouredCounts(clutter=0.0)[:30]:
        pixels = task.prompt[0].pixels.astype(float)
        seen = dict.fromkeys(task.info["counts"], 0)
        for row in range(3):
            for column in range(3):
                cell = pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].reshape(-1, 3)
                ink = cell[cell.max(1) > 190]
                if len(ink) > 8:
                    shade = np.median(ink, 0)
                    seen[min(seen, key=lambda name: np.abs(shade - PALETTE[name]).sum())] += 1
        assert seen == task.info["counts"]


def test_tasks_are_repeatable_and_parts_are_disjoint():
    train_part, test_part = ColouredCounts(), ColouredCounts().split("test")
    assert np.array_equal(train_part[7].prompt[0].pixels, ColouredCounts()[7].prompt[0].pixels)
    assert not np.array_equal(train_part[7].prompt[0].pixels, test_part[7].prompt[0].pixels)
    assert {task.id for task in train_part[:50]}.isdisjoint(task.id for task in test_part[:50])
    assert set().union(*indices("train")).isdisjoint(set().union(*indices("test")))


@pytest.mark.parametrize(
    "wrong", [{"count": -1}, {"colours": 1}, {"most": 0}, {"named": 6}, {"side": 49}, {"clutter": -0.1}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ColouredCounts(**wrong)


def test_a_chance_outside_0_to_1_is_refused():
    with pytest.raises(ConfigError, match="heeded"):
        Distracted(heeded=1.5)


def test_cut_down_recipe_trains():
    small = {"train.steps": 2, "train.groups": 2, "train.group_size": 3}
    stage = {"stages.warm_up.train.steps": 2, "stages.warm_up.train.groups": 4}
    recipe = config.overlay(racro("tiny"), small | stage)
    state = train(recipe, Run(), policy=start_policy(recipe, torch.device("cpu")))
    assert state.step == 2
    assert 0 <= state.last["reward/solved"] <= 1


def test_solver_of_the_base_size_is_asked_the_bare_question(tmp_path):
    file = tmp_path / "virl39k.jsonl"
    file.write_text('{"prompt": "How many?", "question": "How many?", "answer": 3}')
    recipe = config.overlay(racro("base"), {"env.tasks.path": str(file)})
    task = recipe.env.tasks[0]
    trajectory = Trajectory(Prompt(task, recipe.env.prompt(task)), [forced_turn((Text("Three."),), None, 1)])
    echo = Downstream(solver=Echo(), inner=ExactMatch(tag=""), question=recipe.rewards["solved"].question)
    assert text_of(trajectory.prompt.content).startswith("How many? Describe")
    assert echo([trajectory])[0].note == "solver: Three. How many?"


def test_base_size_names_the_checkpoint_and_the_data():
    recipe = replace(racro("base"), ablation=None)
    assert recipe.policy.model == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert (recipe.train.group_size, recipe.objective["kl"].coef) == (4, 1e-3)
    assert recipe.env.tasks.path.endswith(".jsonl")
    assert config.to_dict(config.from_dict(config.to_dict(recipe))) == config.to_dict(recipe)
