"""Base sizes of recipes for unified policies: a small Emu3 checkpoint from a folder in place of the released one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recipes.unified.test_pair_recipes import Written
from saccade.cli.catalogue import catalogue
from saccade.core import config
from saccade.core.metric import Models
from saccade.evaluate.run import evaluate
from saccade.experiment import start_policy
from saccade.learn.loop import Run, train
from saccade.policies.unified.drawing import PICTURE

CPU = torch.device("cpu")
ROOM = 24
"""For 3 lines of 3 codes and their ends, or a few words."""
FEW = {
    "policy.dtype": "float32",
    "policy.side": 24,
    "evaluation.sampling.max_actions": ROOM,
    "evaluation.limit": 2,
    "train.steps": 2,
    "train.groups": 2,
    "train.group_size": 4,
}
MORE = {
    "corl": {"feed.sampling.max_actions": ROOM},
    "hermesflow": {"feed.steps": 1, "feed.draws": 1, "feed.least": -1.0},
    "emu3": {"feed.inner.sampling.max_actions": ROOM, "feed.draws": 1},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    pytest.importorskip("transformers", reason="transformers is not installed (saccade[vlm])")
    from policies.unified.emu3_checkpoint import build

    return build(tmp_path_factory.mktemp("emu3"))


@pytest.mark.parametrize("name", sorted(MORE))
def test_base_size_trains_a_small_checkpoint_of_its_architecture(name, checkpoint):
    """Random weights never answer right and their codec draws nothing good: HermesFlow's samples are written for it."""
    recipe = catalogue()[name].make("base")
    assert recipe.policy.model == "BAAI/Emu3-Gen-hf" and not recipe.stages
    recipe = config.overlay(recipe, {**FEW, **MORE[name], "policy.model": str(checkpoint)})
    if name == "hermesflow":
        recipe = replace(recipe, feed=replace(recipe.feed, inner=Written()))
    policy = start_policy(recipe, CPU)
    before = [p.detach().clone() for p in policy.parameters() if p.requires_grad]
    seen = Seen()
    state = train(recipe, Run(observers=[seen]), policy=policy)
    assert state.step == 2
    assert all(np.isfinite(value) for value in state.last.values())
    assert seen.segments == ({PICTURE} if name == "emu3" else {0, PICTURE}), "what is written and what is drawn"
    if name != "corl":
        assert seen.last["feed/pairs"] >= 1
    after = [p for p in policy.parameters() if p.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), "something was learned from"
    report = evaluate(Models(policy, state.reference), recipe.evaluation, recipe.env, recipe.rewards)
    assert set(report.estimates) == set(recipe.evaluation.metrics)


class Seen:
    """Kinds of actions in the batches, and the last record."""

    def __init__(self):
        self.segments, self.last = set(), {}

    def start(self, *_):
        pass

    def step(self, state, batch, record, seconds):
        self.segments |= {int(s) for s in batch.segment[batch.mask].unique()}
        self.last = dict(record)

    def finish(self, *_):
        pass
