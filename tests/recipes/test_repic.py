"""RePIC: one verifier a kind, the floor, the demonstrations, two steps."""

import numpy as np
import pytest
import torch

from saccade.core import config
from saccade.core.content import Text
from saccade.core.trajectory import Prompt, Task, Trajectory, Turn
from saccade.envs.datasets.introductions import Introductions, caption
from saccade.experiment import start_policy
from saccade.learn.loop import Run, train
from saccade.recipes.vlm.repic import Placed, Shy, repic


def said(task, text):
    empty = torch.zeros(1)
    return Trajectory(Prompt(task, ()), [Turn((Text(text),), None, empty, empty.bool(), empty.long())])


def paid(kind, answer, text, rewards=None):
    task = Task("t", (), {"answer": answer}, info={"kind": kind})
    rewards = repic("tiny").rewards if rewards is None else rewards
    return rewards["verdict"]([said(task, text)])[0].total


@pytest.mark.parametrize(
    ("kind", "answer", "text", "reward"),
    [
        ("same", "yes", "yes", 1.0),
        ("same", "no", "yes", 0.0),
        ("same", "no", "No, it is not. yes", 1.0),
        # 8 x 8 against 8 x 16 with 64 pixels in common: 64 / 128 = .5 passes; 8 x 17 gives 64 / 136 = .47
        ("locate", (0, 0, 8, 16), "<box>0,0,8,8</box>", 1.0),
        ("locate", (0, 0, 8, 17), "<box>0,0,8,8</box>", 0.0),
        ("locate", (0, 0, 8, 16), "yes", 0.0),
        ("caption", ("ben", "mia"), "the last picture shows mia and here is ben", 1.0),
        ("caption", ("ben", "mia"), "the last picture shows ben and here is ben", 0.5),
        ("caption", ("ben", "mia"), "the last picture shows the red digit", 0.0),
        # 23 characters, then 24
        ("caption", ("ben", "mia"), "ben mia ben mia ben mia", 0.0),
        ("caption", ("ben", "mia"), "ben mia ben mia ben mia.", 1.0),
    ],
)
def test_each_kind_has_its_verifier(kind, answer, text, reward):
    assert paid(kind, answer, text) == reward


def test_without_the_mechanism_only_captions_earn_nothing():
    recipe = repic("tiny")
    off = config.overlay(recipe, recipe.ablation.without).rewards
    assert paid("caption", ("ben",), "the last picture shows ben", off) == 0.0
    assert paid("same", "yes", "yes", off) == paid("locate", (0, 0, 8, 8), "<box>0,0,8,8</box>", off) == 1.0


def test_gold_earns_most_and_is_placed_right():
    reward = repic("tiny").rewards["verdict"]
    for task in Introductions()[:60]:
        gold = said(task, task.gold[0][0].text)
        assert reward([gold])[0].total == 1.0
        rows = Placed().rows([[gold]], None)
        assert [row.value for row in rows] == ([1.0] if task.info["kind"] == "caption" else [])


def test_placed_asks_for_every_object_in_its_place():
    calls = (("ben", "the red digit"), ("mia", "the blue digit"))
    task = Task("t", (), info={"calls": calls})
    texts = {
        "the last picture shows ben and here is mia": 1.0,
        "the last picture shows the red digit and here is mia": 1.0,
        "the last picture shows mia and here is ben": 0.0,
        "the last picture shows ben": 0.0,
        "the last picture shows ben and here is the green digit": 0.0,
    }
    rows = Placed().rows([[said(task, text) for text in texts]], None)
    assert [row.value for row in rows] == list(texts.values())


def test_shy_demonstrations_omit_six_names_of_ten_and_are_true():
    tasks, random = Introductions()[:900], np.random.default_rng(0)
    shown = [said(task, Shy()(task, random)[0][0].text) for task in tasks]
    other = [one for one in shown if one.task.info["kind"] != "caption"]
    assert all(one.text == one.task.gold[0][0].text for one in other)
    assert all(row.value == 1.0 for row in Placed().rows([shown], None))
    captions = [one for one in shown if one.task.info["kind"] == "caption"]
    named = [name in one.text for one in captions for name in one.task.target["answer"]]
    # about 450 names; standard error of a share of .4: .023
    assert np.mean(named) == pytest.approx(0.4, abs=0.07)
    assert Shy(omitted=0.0)(captions[0].task, random) == captions[0].task.gold
    assert min(len(caption([name])) for one in captions for name in one.task.target["answer"]) == 26


def test_cut_down_recipe_trains():
    small = {"train.steps": 2, "train.groups": 3, "train.group_size": 2}
    stages = {f"stages.{name}.train.{key}": 2 for name in ("captions", "warm_up") for key in ("steps", "groups")}
    recipe = config.overlay(repic("tiny"), small | stages)
    state = train(recipe, Run(), policy=start_policy(recipe, torch.device("cpu")))
    assert state.step == 2
    assert 0 <= state.last["reward/verdict"] <= 1 and state.last["reward/verdict/unscored"] == 0


def test_base_size_names_the_checkpoint_and_the_data():
    recipe = repic("base")
    assert recipe.policy.model == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert (recipe.policy.lora.rank, recipe.policy.lora.alpha, recipe.train.lr) == (64, 128.0, 1e-5)
    assert recipe.rewards["verdict"].by["caption"].min_chars == 100
    assert recipe.env.tasks.path.endswith(".jsonl")
    assert config.to_dict(config.from_dict(config.to_dict(recipe))) == config.to_dict(recipe)
