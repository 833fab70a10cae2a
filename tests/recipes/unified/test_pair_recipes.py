"""CoRL, HermesFlow and Emu3: cut down to seconds, both arms run; what their own parts say."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from saccade.cli.catalogue import catalogue
from saccade.core import config
from saccade.core.content import Image, Text
from saccade.core.feed import Feed
from saccade.core.metric import Models
from saccade.core.policy import LocalActor, Sampling
from saccade.core.trajectory import Context, Prompt, Trajectory, forced_turn
from saccade.envs.datasets.records import Scene
from saccade.evaluate.run import evaluate
from saccade.experiment import _stage_key, start_policy
from saccade.feeds.demonstrations import Script, ScriptedActor
from saccade.learn.loop import Run, fresh_state, train
from saccade.policies.unified.drawing import PICTURE
from saccade.recipes.unified.emu3 import Likelihood
from saccade.recipes.unified.setting import Mistaken
from saccade.rollout.lockstep import rollout
from saccade.rollout.score import score

CPU = torch.device("cpu")
NAMES = ("corl", "emu3", "hermesflow")
SMALL = {"layers": 1, "heads": 2, "width": 16}


def cut(name, arm="with", **changes):
    """Two steps of four groups of two, with a supervised start of two."""
    recipe = catalogue()[name].make("tiny")
    recipe = config.overlay(recipe, recipe.ablation.without if arm == "without" else {})
    small = {f"policy.{key}": value for key, value in SMALL.items()}
    small |= {f"stages.pretraining.policy.{key}": value for key, value in SMALL.items()}
    for where in ("", "stages.pretraining."):
        small |= {f"{where}train.steps": 2, f"{where}train.groups": 4}
    if hasattr(recipe.feed, "draws"):
        # An untrained policy draws nothing that is good enough.
        small |= {"feed.draws": 2, "feed.least": -1.0}
    return config.overlay(recipe, {**small, "train.group_size": 2, "evaluation.limit": 4, "evaluation.n": 2, **changes})


@pytest.mark.parametrize("arm", ["with", "without"])
@pytest.mark.parametrize("name", NAMES)
def test_both_arms_of_a_cut_down_recipe_train_and_are_judged(name, arm):
    recipe = cut(name, arm)
    policy = start_policy(recipe, CPU)
    state = train(recipe, Run(), policy=policy)
    assert state.step == 2
    assert all(np.isfinite(value) for value in state.last.values())
    report = evaluate(Models(policy, state.reference), recipe.evaluation, recipe.env, recipe.rewards)
    assert set(report.estimates) == set(recipe.evaluation.metrics)
    for name in ("attributes", "complete", "intact", "answers", "format"):
        assert 0 <= report.estimates[name].value <= 1
        assert report.estimates[name].n == 4, "two tasks of each kind, drawn twice"


@pytest.mark.parametrize("name", NAMES)
def test_both_arms_start_from_the_same_policy_and_every_method_from_the_same_one(name):
    recipe, corl = catalogue()[name].make("tiny"), catalogue()["corl"].make("tiny")
    off = config.overlay(recipe, recipe.ablation.without)
    assert config.to_dict(off) != config.to_dict(recipe)
    keys = {_stage_key(one, "pretraining") for one in (recipe, off, corl)}
    assert len(keys) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_base_size_can_be_described_and_read_back(name):
    recipe = catalogue()[name].make("base")
    assert config.to_dict(config.from_dict(config.to_dict(recipe))) == config.to_dict(recipe)
    assert recipe.policy.model == "BAAI/Emu3-Gen-hf"


@pytest.mark.parametrize("name", NAMES)
def test_correct_outputs_earn_the_most_that_the_rewards_can_pay(name):
    """CoRL pairs a picture, 1 + 0.5, with an answer, 0.8 + 0.8; the other verifiers end at 1 or at 1.5 of pictures."""
    recipe = catalogue()[name].make("tiny")
    tasks = [recipe.env.tasks[i] for i in (0, 1)]
    gold = [[Trajectory(Prompt(task, task.prompt), [forced_turn(task.gold[0], None, 1)])] for task in tasks]
    best = {"corl": [3.1, 3.1], "hermesflow": [1.0, 1.0], "emu3": [1.5, 1.5]}[name]
    (reward,) = [reward for reward in recipe.rewards.values() if reward.weight]
    assert [score.total for score in reward([one for (one,) in gold])] == pytest.approx(best)


@dataclass(eq=False)
class Written(Feed):
    """For each record a right and a wrong output of both tasks; of the first record two right answers."""

    def stream(self, problem, actor, state):
        tasks = [problem.env.tasks[i] for i in range(8)]
        groups = [[], []]
        for right, side in zip((True, False), groups, strict=True):
            scripts = {task.id: (gold_or_wrong(task, right or task is tasks[1]),) for task in tasks}
            actor = ScriptedActor(state.policy, scripts)
            side += rollout(actor, problem.env, tasks, group_size=1, sampling=Sampling(), seeds=range(8))
        pairs = [[one, replace(other, prompt=one.prompt)] for (one,), (other,) in zip(*groups, strict=True)]
        score(pairs, problem.rewards)
        while True:
            yield pairs

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def gold_or_wrong(task, right):
    if right:
        return task.gold[0]
    words = {"colour": "place", "shape": "colour", "place": "shape"}
    wrong = Scene("blue" if task.info["attributes"]["colour"] != "blue" else "red", "circle", "northwest")
    if task.info["kind"] == "draw":
        return (wrong.image,)
    return (Text(f"<answer>{task.info['attributes'][words[task.info['question']]]}</answer>"),)


def test_hermesflow_learns_from_pairs_of_both_kinds_from_the_same_records():
    recipe = catalogue()["hermesflow"].make("tiny")
    recipe = config.overlay(recipe, {"train.groups": 6})
    policy = start_policy(cut("hermesflow"), CPU)
    state = fresh_state(recipe, policy, CPU)
    feed = replace(recipe.feed, inner=Written(), draws=1)
    batch = next(feed.stream(recipe.problem, LocalActor(policy), state))
    assert feed.stats["pairs"] == 6, "three of four records: in the first the answers are tied"
    first = recipe.env.tasks[0].info["record"]
    kinds = {}
    for winner, loser in batch:
        assert winner.scores["verifier"].total == 1 > loser.scores["verifier"].total
        kinds.setdefault(winner.task.info["record"], []).append(winner.task.info["kind"])
    assert first not in kinds and list(kinds.values()) == [["draw", "answer"]] * 3


def test_hermesflow_without_answers_is_about_pictures_and_emu3_always_is():
    for name, arm in (("hermesflow", "without"), ("emu3", "with"), ("emu3", "without")):
        recipe = cut(name, arm)
        tasks = recipe.env.tasks
        assert {tasks[i].info["kind"] for i in range(len(tasks))} == {"draw"}


def test_a_round_of_hermesflow_draws_as_much_in_both_arms():
    recipe = catalogue()["hermesflow"].make("tiny")
    off = config.overlay(recipe, recipe.ablation.without)
    for one in (recipe, off):
        assert one.feed.draws * one.train.groups == 240 == len(recipe.env.tasks)
        assert one.train.steps == 2 * one.feed.steps


def test_emu3_keeps_the_tokens_that_were_drawn_for_all_steps():
    recipe = cut("emu3", **{"train.groups": 8, "train.group_size": 8, "feed.draws": 1})
    policy = start_policy(recipe, CPU)
    state = fresh_state(recipe, policy, CPU)
    stream = recipe.feed.stream(recipe.problem, LocalActor(policy), state)
    records = [{id(one.turns[0].record) for group in next(stream) for one in group} for _ in range(4)]
    assert set.union(*records) == records[0] | records[1]
    assert all((one.turns[0].segment == PICTURE).all() for group in next(stream) for one in group)
    assert recipe.feed.steps >= recipe.train.steps


@dataclass(frozen=True)
class Drawn(Script):
    """Always the same picture."""

    picture: Image

    def __call__(self, task, random):
        return ((self.picture,),)


def drawn(policy, prompt):
    (acts,) = policy.act([Context(prompt)], n=32, sampling=Sampling(max_actions=20), seeds=range(32))
    return acts


def survives(policy, prompt, act):
    (again,) = policy.encode([Context(prompt)], [act.output])
    return torch.equal(again.record.ids, act.record.ids)


def test_likelihood_is_that_of_what_the_script_writes_whatever_was_drawn():
    """The picture is one that the policy drew: the mean is that of the log-probabilities it was drawn with."""
    recipe = cut("emu3")
    models = Models(start_policy(recipe, CPU))
    draw, answer = (recipe.evaluation.tasks[i] for i in (0, 1))
    prompts = [Prompt(task, task.prompt) for task in (draw, answer)]
    groups = [[Trajectory(prompt, [forced_turn((), None, 1)])] for prompt in prompts]
    # Some codes look alike, and a picture is only known by its looks.
    act = next(act for act in drawn(models.policy, prompts[0]) if survives(models.policy, prompts[0], act))
    (row,) = Likelihood(Drawn(act.output[0])).rows(groups, models)
    assert row.task == draw.id
    assert row.value == pytest.approx(act.logp.mean().item(), abs=1e-5)
    wrong = Likelihood(Mistaken(share=1.0))
    assert wrong.rows(groups, models) == wrong.rows(groups, models) != Likelihood().rows(groups, models)
    assert Likelihood(kind="other").rows(groups, models) == []
