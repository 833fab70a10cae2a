"""Recipes of the base size on small pipelines, from the command line to plain diffusers."""

import json
import re

import pytest
import torch
from diffusers import DiffusionPipeline

from saccade.cli import main
from saccade.policies.denoise import hub_denoisers


def train(recipe, model, out, *more):
    short = "--train.steps 3 --train.groups 2 --train.group_size 3 --train.minibatches 1 --policy.eval_steps 2"
    few = "--policy.sampler.steps 4 --evaluation.limit 2 --policy.lora.rank 2 --policy.lora.alpha 6 --save-every 1"
    settings = [*short.split(), *few.split(), "--policy.model", str(model), "--out", str(out), *more]
    return main(["train", recipe, "--size", "base", *settings])


@pytest.mark.parametrize(
    ("recipe", "name", "more"),
    [("flow_grpo", "sd3", ("--policy.text_length", "8")), ("ddpo", "sd1", ())],
)
def test_a_recipe_trains_a_pipeline_and_its_adapters_load_in_plain_diffusers(folder, tmp_path, recipe, name, more):
    assert train(recipe, folder(name), tmp_path / "run", *more) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows
    pipeline = DiffusionPipeline.from_pretrained(folder(name))
    pipeline.load_lora_weights(tmp_path / "run" / "model")
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    second = {key: p for key, p in network.named_parameters() if "lora_B" in key}
    # The text's queries in the last block of an SD3 network answer nobody.
    unused = "blocks.1.attn.add_q_proj"
    assert second and all(bool((p != 0).any()) != (unused in key) for key, p in second.items())
    assert all(bool(torch.isfinite(p).all()) for p in second.values())


def test_latents_that_break_in_training_lose_nothing(folder, tmp_path, monkeypatch, capsys):
    """The second step's rollouts meet a network that has overflowed: one line, and the run can go on."""
    predict, broken = hub_denoisers.StableDiffusion.predict, []

    def breaking(self, x, t, conditions):
        out = predict(self, x, t, conditions)
        reached = (tmp_path / "run" / "checkpoints").is_dir() and any((tmp_path / "run" / "checkpoints").iterdir())
        if reached and not torch.is_grad_enabled():
            broken.append(t)
            return out * float("nan")
        return out

    monkeypatch.setattr(hub_denoisers.StableDiffusion, "predict", breaking)
    assert train("ddpo", folder("sd1"), tmp_path / "run") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert broken and re.search(
        r"step 0 of a denoising chain of 4: 6 of 6 predictions of the network at time 751", last
    )
    monkeypatch.setattr(hub_denoisers.StableDiffusion, "predict", predict)
    assert main(["train", "--resume", "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "model" / "pytorch_lora_weights.safetensors").is_file()
