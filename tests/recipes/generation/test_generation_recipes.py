"""Recipes of image generation: cut down to seconds, both arms run; what their own classes say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saccade.cli.catalogue import catalogue
from saccade.core import config
from saccade.core.content import Image, Text
from saccade.core.errors import ConfigError
from saccade.core.trajectory import Prompt, Task, Trajectory, Turn
from saccade.envs.datasets import shapes
from saccade.experiment import _stage_key, start_policy
from saccade.learn.loop import Run, train
from saccade.recipes.generation.diffusion_kto import CarelessLabel
from saccade.recipes.generation.setting import COMPOSED, Captions
from saccade.rewards.image import Brightness
from saccade.rewards.shapes import SceneStrict

NAMES = (
    "ddpo", "dpok", "diffppo", "diffusion_dpo", "diffusion_kto", "image_reward", "refl", "parrot", "b2_diffurl",
    "flow_grpo", "mixgrpo", "diffusion_nft", "awm",
)  # fmt: skip
CPU = torch.device("cpu")
SMALL = (8, 8, 8)


def cut(name, arm="with", **more):
    """Two steps on a network of 20 thousand weights, with a pretraining of two and a reward model of two."""
    recipe = catalogue()[name].make("tiny")
    changes = {**recipe.ablation.common, **(recipe.ablation.without if arm == "without" else {})}
    recipe = config.overlay(recipe, changes)
    groups = min(recipe.train.groups, 3)
    small = {
        "policy.net.channels": SMALL,
        "stages.pretraining.policy.net.channels": SMALL,
        "stages.pretraining.train.steps": 2,
        "stages.pretraining.train.groups": 4,
        "train.steps": 2,
        "train.groups": groups,
        "train.group_size": min(recipe.train.group_size, 4),
        "train.minibatches": min(recipe.train.minibatches, groups),
    }
    for path in ("rewards.preference.model", "objective.refl.reward.model"):
        if _has(recipe, path):
            small |= {f"{path}.steps": 2, f"{path}.pairs": 32, f"{path}.channels": 8}
    return config.overlay(recipe, small | more)


def _has(recipe, path):
    value = config.to_dict(recipe)
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True


@pytest.mark.parametrize("arm", ["with", "without"])
@pytest.mark.parametrize("name", NAMES)
def test_both_arms_of_a_cut_down_recipe_train(name, arm):
    recipe = cut(name, arm)
    state = train(recipe, Run(), policy=start_policy(recipe, CPU))
    assert state.step == 2
    assert all(np.isfinite(value) for value in state.last.values())
    if recipe.train.minibatches * recipe.train.epochs == 1 and "pg/clip_fraction" in state.last:
        assert state.last["policy/actor_mismatch_k1"] == pytest.approx(0, abs=1e-5), "fresh data have a ratio of 1"


def test_recipes_of_one_family_share_their_pretraining():
    """However they sample and score, and in both arms; another family or seed is another generator."""
    keys = {}
    for name in NAMES:
        recipe = catalogue()[name].make("tiny")
        off = config.overlay(recipe, recipe.ablation.without)
        (key,) = {_stage_key(arm, "pretraining") for arm in (recipe, off)}
        keys[name] = key
    assert len(set(keys.values())) == 2
    assert keys["ddpo"] == keys["refl"] != keys["flow_grpo"] == keys["awm"]
    other = config.overlay(catalogue()["ddpo"].make("tiny"), {"train.seed": 1})
    assert _stage_key(other, "pretraining") != keys["ddpo"]


def test_pretraining_reaches_the_policy_of_the_recipe():
    recipe = cut("flow_grpo")
    fresh = recipe.policy.build(CPU, 0).state_dict()
    first, second = (start_policy(recipe, CPU).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first), "trained, then from the cache"
    assert any(not torch.equal(first[name], fresh[name]) for name in first)


def test_every_training_prompt_is_held_back_from_evaluation_or_the_only_one():
    for name in NAMES:
        recipe = catalogue()[name].make("tiny")
        trained = {text(task) for task in recipe.env.tasks[: min(100, len(recipe.env.tasks))]}
        asked = {text(task) for task in recipe.evaluation.tasks[:60]}
        assert not trained & asked, name


def text(task):
    return task.prompt[0].text


@pytest.mark.parametrize("name", ["diffusion_nft", "flow_grpo"])
def test_the_world_of_handwriting_is_drawn_read_and_compared_with(name):
    recipe = catalogue()[name].make("tiny", world="digits")
    assert text(recipe.env.tasks[0]).startswith("a ")
    assert recipe.evaluation.metrics["reading"].reward.classifier != recipe.rewards["confidence"].classifier
    assert recipe.evaluation.limit * recipe.evaluation.n == recipe.evaluation.metrics["frechet"].n
    small = {
        "policy.net.channels": SMALL,
        "stages.pretraining.policy.net.channels": SMALL,
        "stages.pretraining.train.steps": 2,
        "rewards.confidence.classifier.steps": 2,
        "train.steps": 1,
        "train.groups": 2,
        "train.group_size": 2,
    }
    recipe = config.overlay(recipe, small)
    assert train(recipe, Run(), policy=start_policy(recipe, CPU)).step == 1
    with pytest.raises(ConfigError, match='world must be "shapes" or "digits"'):
        catalogue()[name].make("tiny", world="moon")
    with pytest.raises(ConfigError, match="tiny size only"):
        catalogue()[name].make("base", world="digits")


def test_captions_are_different_and_keep_their_ids():
    tasks = Captions(most=12)
    ids = [task.id for task in tasks]
    assert len(ids) == len(set(ids)) == len(tasks) == 10 + 12 + 12 + 12
    assert ids == [task.id for task in Captions(most=12)]
    assert all(task.id == f"caption/{text(task)}" and not task.gold for task in tasks)
    assert [task.info["kind"] for task in tasks[:4]] == list(COMPOSED)
    assert {text(task) for task in Captions(most=0)} == {
        c.text for kind in COMPOSED for c in shapes.captions(kind, "train")
    }
    assert not {task.id for task in Captions(most=0)} & {task.id for task in Captions(most=0).split("test")}
    with pytest.raises(ConfigError, match="most must be >= 0"):
        Captions(most=-1)


def shown(pixels, task):
    one = torch.zeros(1)
    return Trajectory(Prompt(task, task.prompt), [Turn((Image(pixels),), None, one, one.bool(), one.long())])


def test_careless_labels_are_wrong_for_a_fifth_of_the_pictures_and_always_for_the_same():
    """400 wrong pictures; the standard error of a share of 0.2 is 0.02."""
    task = Captions(kinds=("colour",))[0]
    rng = np.random.default_rng(0)
    noise = [shown(rng.integers(0, 30, (16, 16, 3)).astype(np.uint8), task) for _ in range(400)]
    exact = [score.total for score in SceneStrict()(noise)]
    assert not any(exact)
    label = CarelessLabel(inner=SceneStrict(), flipped=0.2)
    paid = [label.score(one) for one in noise]
    assert set(paid) == {0.0, 1.0}
    assert np.mean(paid) == pytest.approx(0.2, abs=0.06)
    assert paid == [label.score(one) for one in noise]
    assert not any(CarelessLabel(inner=SceneStrict(), flipped=0.0).score(one) for one in noise)
    assert all(CarelessLabel(inner=SceneStrict(), flipped=1.0).score(one) for one in noise)


def test_careless_labels_leave_unscored_what_their_inner_reward_does():
    silent = Trajectory(Prompt(Task("t", (Text("x"),)), (Text("x"),)))
    assert CarelessLabel(inner=Brightness()).score(silent) is None
    with pytest.raises(ConfigError, match="flipped must be in"):
        CarelessLabel(inner=SceneStrict(), flipped=1.5)


def test_learning_from_the_front_leaves_dominated_pictures_out():
    recipe = cut("parrot")
    policy = start_policy(recipe, CPU)
    state = train(replace(recipe, train=replace(recipe.train, steps=1)), Run(), policy=policy)
    assert 0 < state.last["reward/front/unscored"] < 1


def test_a_batch_that_may_not_be_cut_is_not():
    """Diffusion-KTO compares with the mean of the whole batch: a micro size of one picture must not change it."""
    found = []
    for size in (1, 2**15):
        recipe = cut("diffusion_kto", **{"train.micro_size": size, "train.steps": 1})
        found.append(train(recipe, Run(), policy=start_policy(recipe, CPU)).last)
    assert found[0]["loss/kto"] == pytest.approx(found[1]["loss/kto"], rel=1e-5)
    assert found[0]["policy/grad_norm"] == pytest.approx(found[1]["policy/grad_norm"], rel=1e-4)
