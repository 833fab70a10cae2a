"""Heads learn: cloning a toy rule by likelihood, and reaching a target by the plain policy gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from policies.motor.rooms import CPU, turn
from saccade.core.batch import finish, pack
from saccade.core.content import Array, Text
from saccade.core.policy import Need, Sampling
from saccade.core.reward import Score
from saccade.core.trajectory import Context, Prompt, Task, Trajectory, forced_turn
from saccade.policies.motor.discrete import Binned, Categorical
from saccade.policies.motor.flow import FlowHead
from saccade.policies.motor.gaussian import Gaussian
from saccade.policies.motor.tiny import TinyVLA

WORDS = ("left", "right")
BASE: dict[str, Any] = {"side": 0, "state": 2, "words": WORDS, "width": 32}
HEADS = {
    "categorical": TinyVLA(head=Categorical(choices=3), **BASE),
    "binned": TinyVLA(head=Binned(bins=9), commands=2, **BASE),
    "gaussian": TinyVLA(head=Gaussian(std=0.3), commands=2, **BASE),
    "flow": TinyVLA(head=FlowHead(), commands=2, **BASE),
}


def scene(seed: int) -> tuple[Prompt, np.ndarray]:
    """A state, a word, and the command that they ask for: the state's point, mirrored if the word is "left"."""
    rng = np.random.default_rng(seed)
    state = rng.uniform(-0.8, 0.8, 2).astype(np.float32)
    word = WORDS[seed % 2]
    content = (Text(f"go {word}"), Array("state", state))
    return Prompt(Task(f"scene-{seed}", content), content), state * (-1 if word == "left" else 1)


def asked(spec: TinyVLA, target: np.ndarray) -> np.ndarray:
    """The command [1, D]; with choices: 0, 1 or 2 by the first coordinate."""
    if isinstance(spec.head, Categorical):
        return np.array([[np.digitize(target[0], [-0.25, 0.25])]], np.float32)
    return target[None].astype(np.float32)


def error(policy, seeds) -> float:
    """Mean distance of greedy commands from what was asked for."""
    scenes = [scene(seed) for seed in seeds]
    acts = policy.act([Context(p) for p, _ in scenes], sampling=Sampling(deterministic=True), seeds=list(seeds))
    wanted = [asked(policy.spec, target) for _, target in scenes]
    given = [act[0].output[0].values for act in acts]
    return float(np.mean([np.abs(g - w).mean() for g, w in zip(given, wanted, strict=True)]))


@pytest.mark.parametrize("name", HEADS)
def test_cloning_by_likelihood_learns_a_rule(name):
    """96 demonstrations, 120 steps; unseen scenes. A bin of 9 is 0.22 wide; guessing errs by 0.4 and more."""
    policy = HEADS[name].build(CPU, seed=0)
    scenes = [scene(seed) for seed in range(96)]
    outputs = [(Array("command", asked(policy.spec, target)),) for _, target in scenes]
    acts = policy.encode([Context(p) for p, _ in scenes], outputs)
    shown = [
        [Trajectory(p, [forced_turn(act.output, act.record, len(act.logp))])]
        for (p, _), act in zip(scenes, acts, strict=True)
    ]
    batch = finish(pack(shown), "action")
    before = error(policy, range(1000, 1064))
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for step in range(120):
        now = replace(batch, progress=replace(batch.progress, step=step))
        optimiser.zero_grad()
        (-now.mean_actions(policy.log_prob(now).logp)).backward()
        optimiser.step()
    after = error(policy, range(1000, 1064))
    assert before > 0.3 and after < 0.18, (before, after)


SHARE = {"categorical": 0.6, "binned": 0.6, "gaussian": 0.45, "flow": 0.25}


@pytest.mark.parametrize("name", HEADS)
def test_the_policy_gradient_reaches_a_target(name):
    """A bandit of one turn: pay is minus the distance to (0.5, -0.5), or 1 for the last choice; mean of 8 as baseline.

    60 updates by 32 draws; the mean pay must close a share of the gap to the best. Noise that is left keeps the
    continuous heads from it, and a flow's reaches back over all of its steps.
    """
    policy = HEADS[name].build(CPU, seed=1)
    start = scene(3)[0]

    def pay(act) -> float:
        given = act.output[0].values[0]
        if name == "categorical":
            return float(given[0] == 2)
        return -float(np.linalg.norm(np.clip(given, -1, 1) - np.array([0.5, -0.5])))

    def draws(step, n):
        return policy.act([Context(start)], n=n, sampling=Sampling(), seeds=[1000 * step + i for i in range(n)])[0]

    best = 1.0 if name == "categorical" else 0.0
    before = np.mean([pay(act) for act in draws(500, 128)])
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for step in range(60):
        acts = draws(step, 32)
        group = [Trajectory(start, [turn(act)], scores={"pay": Score(pay(act))}) for act in acts]
        batch = finish(pack([group]), "action")
        advantage = batch.outcome - batch.outcome.mean()
        loss = -batch.mean_actions(advantage[:, None] * policy.log_prob(batch, Need()).logp)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()
    after = np.mean([pay(act) for act in draws(600, 128)])
    assert after - before > SHARE[name] * (best - before), (before, after)
