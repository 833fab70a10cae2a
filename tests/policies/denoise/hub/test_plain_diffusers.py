"""Our chains and pictures are those of plain diffusers' pipelines over the same folder."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from policies.denoise.hub.drawn import prompt
from saccade.core.content import Image
from saccade.core.policy import Sampling
from saccade.core.trajectory import Context
from saccade.policies.denoise.chain import initial_noise

GUIDANCE = 3.0
SAMPLERS: dict[str, Any] = {"sd1": DDIMScheduler}
"""Solvers other than the checkpoint's own, where that one is of higher order."""


@pytest.fixture(scope="module")
def plain(folder) -> Any:
    """The pipeline of a name as plain diffusers loads it."""
    return cache(lambda name: load(folder, name))


@pytest.fixture(scope="module")
def policy_of(make) -> Any:
    """The guided policy over the pipeline of a name; tests leave it as it is."""
    return cache(lambda name: make(name, guidance=GUIDANCE))


def load(folder, name: str) -> Any:
    absent = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd3_without_t5" else {}
    pipeline = DiffusionPipeline.from_pretrained(folder(name), **absent)
    if name in SAMPLERS:
        pipeline.scheduler = SAMPLERS[name].from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def options(name: str) -> dict[str, Any]:
    """Arguments of the pipeline's call that say the same as the policy's settings."""
    size = {"height": 16, "width": 16, "num_inference_steps": 4}
    if name.startswith("flux"):
        return size | {
            "negative_prompt": "",
            "true_cfg_scale": GUIDANCE,
            "guidance_scale": 3.5,
            "max_sequence_length": 12,
        }
    return size | {"guidance_scale": GUIDANCE} | ({"max_sequence_length": 12} if name.startswith("sd3") else {})


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' Euler on numpy 2
@pytest.mark.parametrize(
    "name", ["sd1", "sd2", "sd2_zero", "sdxl", "sd3", "sd3_without_t5", "sd3_dynamic", "flux", "flux_schnell"]
)
def test_deterministic_chains_equal_the_pipelines(plain, policy_of, name, monkeypatch):
    """Same initial noise, same captions, guided: final latents to 1e-4, pictures to a level of 255."""
    policy, pipeline = policy_of(name), plain(name)
    noise = initial_noise(7, policy.denoiser.shape)[None]
    given = noise
    if name.startswith("flux"):
        given = pipeline._pack_latents(noise, 1, *noise.shape[1:])
    ended: list[torch.Tensor] = []

    def note(_pipeline, _step, _time, tensors):
        ended.append(tensors["latents"])
        return {}

    caption = prompt(0).content[0].text
    out = pipeline(caption, latents=given, callback_on_step_end=note, output_type="np", **options(name))
    want = ended[-1]
    if name.startswith("flux"):
        want = pipeline._unpack_latents(want, 16, 16, pipeline.vae_scale_factor)

    finals: list[torch.Tensor] = []
    to_pixels = policy.denoiser.to_pixels
    monkeypatch.setattr(policy.denoiser, "to_pixels", lambda latent: finals.append(latent) or to_pixels(latent))
    (act,) = policy.act([Context(prompt(0))], sampling=Sampling(deterministic=True), seeds=[7])[0]
    error = float((finals[0] - want).abs().max() / want.abs().max())
    assert error < 1e-4, error
    (image,) = act.output
    assert np.abs(image.pixels.astype(float) - 255 * out.images[0]).max() < 1


@pytest.mark.parametrize("name", ["sd1", "sd2", "sd2_zero", "sd3", "sd3_dynamic", "flux"])
def test_times_are_those_of_the_scheduler(plain, policy_of, name):
    process, scheduler = policy_of(name).process, plain(name).scheduler
    config = scheduler.config
    for steps in (1, 3, 8, 20):
        given: dict[str, Any] = {"num_inference_steps": steps}
        if config.get("use_dynamic_shifting"):
            # 8 by 8 latents are 16 positions.
            part = (16 - config.base_image_seq_len) / (config.max_image_seq_len - config.base_image_seq_len)
            given["mu"] = config.base_shift + (config.max_shift - config.base_shift) * part
        if name == "flux":
            given["sigmas"] = np.linspace(1, 1 / steps, steps)
        scheduler.set_timesteps(**given)
        want = scheduler.timesteps.double() / (1000 if process.span == 1 else 1)
        torch.testing.assert_close(process.grid(steps)[:-1], want, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["sd1", "sd2_zero"])
def test_noise_levels_are_those_of_the_scheduler(plain, policy_of, name):
    policy, scheduler = policy_of(name), plain(name).scheduler
    kept = policy.process.kept(torch.arange(1000))
    torch.testing.assert_close(kept, scheduler.alphas_cumprod.double(), atol=1e-5, rtol=1e-4)
    assert float(policy.process.kept(torch.tensor([-1]))) == pytest.approx(float(scheduler.final_alpha_cumprod), 1e-6)


@pytest.mark.parametrize("name", ["sd1", "sd3"])
def test_pictures_go_through_the_autoencoder_and_back(plain, policy_of, name):
    """``from_pixels`` is the mean of the encoder, scaled; ``decode`` undoes the scale."""
    policy, vae = policy_of(name), plain(name).vae
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        mean = vae.encode(image).latent_dist.mean
        want = (mean - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
        latent = policy.denoiser.from_pixels(pixels)
        torch.testing.assert_close(latent, want[0], atol=1e-5, rtol=1e-5)
        back = policy.denoiser.decode(latent[None])
        torch.testing.assert_close(back, (vae.decode(mean).sample / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-5)
    acts = policy.encode([Context(prompt(0))], [(Image(pixels),)])
    assert acts[0].record.latent.equal(latent)
