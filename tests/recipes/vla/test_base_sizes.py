"""Base sizes of recipes that act: a small checkpoint of the same architecture from a folder, or a narrower network."""

import json

import numpy as np
import PIL.Image
import pytest
import torch

from policies.hf.checkpoints import build
from recipes.vla.test_gui_recipes import browser_missing
from recipes.vla.test_moving_recipes import NEEDS, cut
from saccade.cli.catalogue import catalogue
from saccade.core import config
from saccade.core.metric import Models
from saccade.evaluate.run import evaluate
from saccade.experiment import start_policy
from saccade.learn.loop import Run, train

CPU = torch.device("cpu")
FEW = {
    "policy.dtype": "float32",
    "feed.sampling.max_actions": 6,
    "evaluation.sampling.max_actions": 6,
    "evaluation.limit": 2,
    "train.steps": 1,
    "train.groups": 2,
    "train.group_size": 2,
    "train.minibatches": 1,
}
MORE = {
    "gui_r1": {},
    "gta1": {"evaluation.n": 8},
    "progrm": {"env.max_turns": 2},
    "vln_r1": {"env.world.max_turns": 2, "stages.cold_start.train.steps": 1, "stages.cold_start.train.groups": 2},
    "mobilegui_rl": {"env.max_turns": 2, "env.browsers.count": 1, "env.browsers.tabs": 2},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    pytest.importorskip("transformers", reason="transformers is not installed (saccade[vlm])")
    return build("qwen2_5_vl", tmp_path_factory.mktemp("qwen2_5_vl"))


def grounding(folder):
    """Two rows of the file that the base size of GTA1 reads."""
    rows = []
    for i in range(2):
        PIL.Image.fromarray(np.full((56, 56, 3), 90 * i, np.uint8)).save(folder / f"{i}.png")
        rows.append({"prompt": "the button", "image": f"{i}.png", "answer": [8, 8, 24, 24]})
    path = folder / "grounding.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("name", sorted(MORE))
def test_base_size_trains_a_small_checkpoint_of_its_architecture(name, checkpoint, tmp_path):
    if name == "vln_r1":
        pytest.importorskip("minigrid", reason="minigrid is not installed (saccade[navigation])")
    if name == "mobilegui_rl" and (missing := browser_missing()):
        pytest.skip(missing)
    recipe = catalogue()[name].make("base")
    assert recipe.policy.model == "Qwen/Qwen2.5-VL-3B-Instruct"
    changes = {**FEW, **MORE[name], "policy.model": str(checkpoint)}
    if name == "gta1":
        changes["env.tasks.path"] = str(grounding(tmp_path))
    recipe = config.overlay(recipe, changes)
    policy = start_policy(recipe, CPU)
    state = train(recipe, Run(), policy=policy)
    assert state.step == 1
    assert all(np.isfinite(value) for value in state.last.values())
    report = evaluate(Models(policy), recipe.evaluation, recipe.env, recipe.rewards)
    assert set(report.estimates) == set(recipe.evaluation.metrics)


@pytest.mark.parametrize("name", sorted(set(NEEDS) - {"vln_r1"}))
def test_base_size_without_a_checkpoint_trains(name):
    pytest.importorskip(NEEDS[name], reason=f"{name} needs {NEEDS[name]}")
    recipe = config.overlay(cut(catalogue()[name].make("base")), {"train.micro_size": 256})
    state = train(recipe, Run(), policy=start_policy(recipe, CPU))
    assert state.step == 2
    assert all(np.isfinite(value) for value in state.last.values())
