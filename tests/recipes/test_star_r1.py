"""STAR-R1: the graded reward, the demonstrations, the scenes, two steps."""

from typing import Any

import numpy as np
import pytest
import torch

from saccade.core import config
from saccade.core.content import Text, frames_of, images_of, text_of
from saccade.core.errors import ConfigError
from saccade.core.trajectory import Prompt, Task, Trajectory, Turn
from saccade.envs.datasets.changes import SIZES, ChangedScenes
from saccade.envs.datasets.glyphs import indices
from saccade.experiment import start_policy
from saccade.learn.loop import Run, train
from saccade.recipe import Size
from saccade.recipes.vlm.star_r1 import Careless, ExactTriples, NamedTriples, star_r1
from saccade.rewards.parse import items, tagged

UNUSED: Any = None
"""What metrics of samples look into."""


def recipe_of(size: Size = "tiny") -> Any:
    return star_r1(size)


def said(task: Task, text: str) -> Trajectory:
    empty = torch.zeros(1)
    turn = Turn((Text(text),), None, empty, torch.ones(1, dtype=torch.bool), empty.long())
    return Trajectory(Prompt(task, task.prompt), [turn])


def answered(answer: str, target: str = "2.colour.red, 3.size.large") -> Trajectory:
    return said(Task("t", (), {"answer": target}), f"<think>1</think><answer>{answer}</answer>")


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        # two fully right: 5 + 5
        ("2.colour.red, 3.size.large", 10.0),
        # one fully right, one right up to its value: 5 + 1.5, and 1 is taken for the wrong one
        ("2.colour.blue, 3.size.large", 5.5),
        # the object only: 0.5 - 1 for being wrong - 1 for one triple too few
        ("2.size.large", -1.5),
        # nothing right: -1 for being wrong, -1 for one too few
        ("4.size.small", -2.0),
        # two too few
        ("", -2.0),
        # all eight attributes: 5 + 5, six wrong ones
        (
            ", ".join(
                f"{i}.colour.red, {i}.size.{size}" for i, size in enumerate(("small", "small", "large", "small"), 1)
            ),
            4.0,
        ),
    ],
)
def test_reward_is_ladder_less_penalties(answer, reward):
    assert recipe_of().rewards["triples"]([answered(answer)])[0].total == pytest.approx(reward)


def test_without_the_mechanism_naming_everything_costs_nothing():
    """The eight attributes of the test above earn 5 + 5, as much as the exact answer; naming too few still costs."""
    recipe = recipe_of()
    ladder = config.overlay(recipe, recipe.ablation.without).rewards["triples"]
    everything = ", ".join(f"{i}.{a}" for i in range(1, 5) for a in ("colour.red", "size.large"))
    assert ladder([answered(everything)])[0].total == pytest.approx(10.0)
    assert ladder([answered("2.colour.red")])[0].total == pytest.approx(5.0 - 1.0)


def test_gold_gets_the_most_and_is_exact():
    rewards = recipe_of().rewards
    for task in ChangedScenes()[:40]:
        changes = len(items(task.target["answer"]))
        gold = said(task, text_of(task.gold[0]))
        assert 1 <= changes <= 3
        assert rewards["triples"]([gold])[0].total == pytest.approx(5.0 * changes)
        assert rewards["format"]([gold])[0] == 1.0
        assert ExactTriples().rows([[gold]], UNUSED)[0].value == 1.0
        assert NamedTriples().rows([[gold]], UNUSED)[0].value == changes


@pytest.mark.parametrize(
    ("answer", "exact", "named"),
    [
        ("3.size.large, 2.colour.red", 1.0, 2),
        ("2.colour.red, 2.colour.red, 3.size.large", 0.0, 3),
        ("2.colour.red", 0.0, 1),
        ("", 0.0, 0),
    ],
)
def test_metrics_count_triples_and_ask_for_the_exact_set(answer, exact, named):
    assert ExactTriples().rows([[answered(answer)]], UNUSED)[0].value == exact
    assert NamedTriples().rows([[answered(answer)]], UNUSED)[0].value == named


def test_answer_follows_from_the_looks_of_the_scenes():
    for task in ChangedScenes(most=8)[:30]:
        before, after = task.info["before"], task.info["after"]
        differ = [
            f"{i + 1}.{name}.{after[i][name]}"
            for i in range(4)
            for name in ("colour", "size")
            if before[i][name] != after[i][name]
        ]
        assert ", ".join(differ) == task.target["answer"]


def test_size_and_colour_are_what_the_pictures_show():
    """Ink is the brightest; a large digit has about (0.95 / 0.5) ** 2 = 3.6 times the ink of a small one."""
    ink: dict[str, list[int]] = {size: [] for size in SIZES}
    for task in ChangedScenes(noise=0.0, colours=5)[:60]:
        for picture, looks in zip(images_of(task.prompt), (task.info["before"], task.info["after"]), strict=True):
            for i, look in enumerate(looks):
                quarter = picture.pixels[16 * (i // 2) :, 16 * (i % 2) :][:16, :16].astype(int)
                bright = quarter.max(-1) > 190
                ink[look["size"]].append(int(bright.sum()))
                shade = np.median(quarter[bright], 0)
                assert (shade[0] - shade[2] > 100) == (look["colour"] in ("red", "yellow"))
    assert np.mean(ink["small"]) < np.mean(ink["medium"]) < np.mean(ink["large"])
    assert 2.5 < np.mean(ink["large"]) / np.mean(ink["small"]) < 4.7


def test_tasks_are_repeatable_and_parts_are_disjoint():
    train, test = ChangedScenes(), ChangedScenes().split("test")
    first, again, other = (frames_of(tasks[7].prompt)[0] for tasks in (train, ChangedScenes(), test))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert {task.id for task in train[:50]}.isdisjoint(task.id for task in test[:50])
    assert set().union(*indices("train")).isdisjoint(set().union(*indices("test")))


@pytest.mark.parametrize("wrong", [{"count": -1}, {"side": 31}, {"colours": 1}, {"most": 0}, {"noise": -1.0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ChangedScenes(**wrong)


def test_careless_demonstrations_keep_the_thought_and_err_in_the_answer():
    """Of 8 attributes 2 change on average: 2 (1 - 0.1) + 6 * 0.1 = 2.4 triples are named, 0.9 ** 8 = 0.43 are exact."""
    tasks, random = ChangedScenes()[:400], np.random.default_rng(0)
    shown = [text_of(Careless()(task, random)[0]) for task in tasks]
    assert all(tagged(s, "think") == tagged(text_of(t.gold[0]), "think") for s, t in zip(shown, tasks, strict=True))
    answers = [tagged(text, "answer") or "" for text in shown]
    assert np.mean([len(items(answer)) for answer in answers]) == pytest.approx(2.4, abs=0.2)
    exact = [answer == task.target["answer"] for answer, task in zip(answers, tasks, strict=True)]
    assert np.mean(exact) == pytest.approx(0.43, abs=0.08)
    assert Careless(overlooked=0.0, imagined=0.0)(tasks[0], random)[0] == tasks[0].gold[0]


def test_cut_down_recipe_trains():
    small = {"train.steps": 2, "train.groups": 2, "train.group_size": 3, "feed.sampling.max_actions": 12}
    stage = {"stages.warm_up.train.steps": 2, "stages.warm_up.train.groups": 4}
    recipe = config.overlay(recipe_of(), small | stage)
    state = train(recipe, Run(), policy=start_policy(recipe, torch.device("cpu")))
    assert state.step == 2
    assert state.last["reward/triples"] < 0 and state.last["overlong"] == 1.0


def test_base_size_names_the_checkpoint_and_the_data():
    recipe = recipe_of("base")
    assert recipe.policy.model == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert recipe.env.tasks.path.endswith(".jsonl")
    assert config.to_dict(config.from_dict(config.to_dict(recipe))) == config.to_dict(recipe)
