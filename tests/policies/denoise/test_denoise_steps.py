"""Samplers: against diffusers, against the marginals they must keep, and which steps are random."""

from dataclasses import dataclass, replace

import pytest
import torch

from policies.denoise.gaussian import MEAN, STD, predictor
from saccade.core.errors import ConfigError
from saccade.policies.denoise.chain import Chain, Plan, run
from saccade.policies.denoise.noise import Diffusion, Flow
from saccade.policies.denoise.steps import (
    CPS,
    DDIM,
    DanceSDE,
    Euler,
    EveryStep,
    FlowSDE,
    RandomSteps,
    RandomWindow,
    Sampler,
    Suffix,
    Window,
)

CHAINS, SHAPE = 200, (16, 16)


def random_tensors(count, seed=0):
    return torch.randn(count, 2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ours(process, sampler, x, prediction, i):
    table = sampler.table(process)
    clean, noise = process.split(x, prediction, table.time[i].expand(len(x)))
    random = torch.ones(len(x), dtype=torch.bool)
    return table.mean(clean, noise, torch.full((len(x),), i), random), table.std[i]


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_steps_are_those_of_diffusers(spacing, prediction, eta):
    """Stable Diffusion 1.x: scaled linear, an offset of 1 with leading times, chains that end at A_0."""
    diffusers = pytest.importorskip("diffusers")
    stable = spacing == "leading"
    theirs = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear" if stable else "squaredcos_cap_v2",
        prediction_type={"v": "v_prediction"}.get(prediction, prediction),
        timestep_spacing=spacing,
        steps_offset=int(stable),
        set_alpha_to_one=not stable,
        clip_sample=not stable,
    )
    process = Diffusion(
        schedule="scaled_linear" if stable else "squaredcos_cap_v2",
        first=0.00085,
        last=0.012,
        prediction=prediction,
        spacing=spacing,
        offset=int(stable),
        to_one=not stable,
        clip=None if stable else 1.0,
    )
    theirs.set_timesteps(10)
    # In float32 their 1 - A' - s^2 has no digits left at the first steps with eta = 1.
    theirs.alphas_cumprod = (1 - theirs.betas.double()).cumprod(0)
    theirs.final_alpha_cumprod = theirs.final_alpha_cumprod.double() if not stable else theirs.alphas_cumprod[0]
    table = DDIM(10, eta=eta).table(process)
    assert table.time[:-1].tolist() == theirs.timesteps.tolist()
    states, predictions, pushes = (random_tensors(10, seed) for seed in range(3))
    for i, t in enumerate(theirs.timesteps):
        expected = theirs.step(predictions[i], t, states[i], eta=eta, variance_noise=pushes[i]).prev_sample
        mean, std = ours(process, DDIM(10, eta=eta), states[i], predictions[i], i)
        # Their betas are float32: what is divided by a small level has fewer digits.
        clean, noise = process.split(states[i], predictions[i], t.double().expand(2))
        scale = max(1.0, float(clean.abs().max()), float(noise.abs().max()))
        torch.testing.assert_close(mean + std * pushes[i], expected, atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_steps_are_those_of_diffusers(shift):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=torch.linspace(1, 1 / 8, 8).tolist())
    process = Flow(shift)
    states, predictions = random_tensors(8), random_tensors(8, 1)
    table = Euler(8).table(process)
    torch.testing.assert_close(table.time.float(), theirs.sigmas, atol=1e-6, rtol=0)
    for i, t in enumerate(theirs.timesteps):
        expected = theirs.step(predictions[i].float(), t, states[i].float()).prev_sample
        mean, std = ours(process, Euler(8), states[i], predictions[i], i)
        torch.testing.assert_close(mean.float(), expected, atol=1e-5, rtol=0)
        assert float(std) == 0


def test_flow_sde_steps_follow_the_papers_formula():
    """mu = x (1 + sig^2 dt / (2 t)) + v (1 + sig^2 (1 - t) / (2 t)) dt,  s = sig sqrt(-dt),  sig = a sqrt(t / (1 - t));
    at the first of 4 steps 1 - 0.75 stands for 1 - t."""
    x, v = random_tensors(4), random_tensors(4, 1)
    for sampler, sigma in ((FlowSDE(4, noise=0.7), None), (DanceSDE(4, noise=0.3), 0.3)):
        for i, t in enumerate([1.0, 0.75, 0.5, 0.25]):
            sig = sigma or 0.7 * (t / (0.25 if t == 1 else 1 - t)) ** 0.5
            drift = sig**2 / (2 * t)
            expected = x[i] * (1 - drift * 0.25) + v[i] * (1 + drift * (1 - t)) * -0.25
            mean, std = ours(Flow(), sampler, x[i], v[i], i)
            torch.testing.assert_close(mean, expected, atol=1e-12, rtol=1e-12)
            assert float(std) == pytest.approx(sig * 0.5)


def test_coefficient_preserving_steps_have_the_next_noise_level():
    """x' = (1 - t') x0hat + sqrt(t'^2 - s^2) ehat + s eps with s = t' sin(0.4 pi / 2)."""
    table = CPS(4, noise=0.4).table(Flow())
    torch.testing.assert_close(table.direction**2 + table.std**2, table.time[1:] ** 2)
    torch.testing.assert_close(table.std, table.time[1:] * 0.5877852522924731)
    assert float(table.std[-1]) == 0


def chains(process, sampler, choice, seed=0, precision=torch.float64):
    """The final values of CHAINS chains of 256 independent dimensions each."""
    seeds = list(range(seed * CHAINS, (seed + 1) * CHAINS))
    kinds = [choice.kinds(sampler.steps, 0, 0)] * CHAINS
    plan = Plan(torch.zeros(CHAINS, dtype=torch.int64), kinds, seeds, seeds, False)
    table = sampler.table(process)
    like = torch.empty(0, dtype=precision)
    return run(predictor(process), process, table, Chain(), plan, SHAPE, like).final.flatten()


def deviates(x):
    """By how many standard errors mean and standard deviation are off those of the data."""
    n = x.numel()
    return abs(float(x.mean()) - MEAN) / (STD / n**0.5), abs(float(x.std()) - STD) / (STD / (2 * n) ** 0.5)


MARGINALS = {
    "flow, ODE": (Flow(), Euler(100)),
    "flow, Flow-SDE": (Flow(), FlowSDE(100, noise=0.7)),
    "flow, Dance-SDE": (Flow(), DanceSDE(100, noise=0.8)),
    "shifted flow, Flow-SDE": (Flow(3.0), FlowSDE(100, noise=0.5)),
    "diffusion, DDIM": (Diffusion(), DDIM(200, eta=0.0)),
    "diffusion, ancestral": (Diffusion(prediction="v"), DDIM(400)),
}


@pytest.mark.parametrize("process, sampler", MARGINALS.values(), ids=MARGINALS)
def test_random_and_deterministic_chains_have_the_moments_of_the_data(process, sampler):
    """51,200 values. Discretisation leaves a bias of order 1 / T: less than 3 % of the standard deviation is asked for,
    and 5 standard errors of the mean."""
    found = chains(process, sampler, EveryStep())
    mean, _ = deviates(found)
    assert mean < 5
    assert float(found.std()) == pytest.approx(STD, rel=0.03)


def test_a_random_window_keeps_the_marginals():
    found = chains(Flow(), FlowSDE(100, noise=0.7), Window(20, start=30))
    assert deviates(found)[0] < 5 and float(found.std()) == pytest.approx(STD, rel=0.03)


@dataclass(frozen=True)
class NoDrift(FlowSDE):
    """Noise is added and the drift is not corrected for it."""

    def random_step(self, process, time):
        _, std = super().random_step(process, time)
        return process.level(time[1:]), std


def test_without_the_drift_correction_the_marginals_are_lost():
    found = chains(Flow(), NoDrift(100, noise=0.7), EveryStep())
    assert float(found.std()) > 1.15 * STD


def test_ddim_without_eta_is_the_deterministic_chain():
    process = Diffusion(prediction="v")
    torch.testing.assert_close(
        chains(process, DDIM(20, eta=0.0), EveryStep(0)), chains(process, Euler(20), EveryStep(0)), atol=1e-12, rtol=0
    )


def test_no_noise_makes_every_flow_sampler_deterministic():
    expected = chains(Flow(), Euler(10), EveryStep(0))
    for sampler in (FlowSDE(10, noise=0.0), DanceSDE(10, noise=0.0), CPS(10, noise=0.0)):
        torch.testing.assert_close(chains(Flow(), sampler, EveryStep(0)), expected, atol=1e-12, rtol=0)


def test_a_prediction_tells_image_and_noise_apart():
    """With the true target as prediction, x0hat = x0 and ehat = e; levels near pure noise lose digits."""
    clean, noise = random_tensors(1)[0], random_tensors(1, 1)[0]
    for process in (Flow(), *(Diffusion(prediction=p) for p in ("epsilon", "v", "sample"))):
        t = process.at(torch.tensor([0.3, 0.8], dtype=torch.float64))
        found = process.split(process.corrupt(clean, noise, t), process.target(clean, noise, t), t)
        torch.testing.assert_close(found, (clean, noise), atol=1e-9, rtol=0)


def kinds(choice, steps=6, version=0, seed=0):
    return "".join(kind[0] for kind in choice.kinds(steps, version, seed))


def test_all_steps_but_the_tail_are_random():
    assert kinds(EveryStep(1)) == "ooooos" and kinds(EveryStep(0)) == "oooooo"


def test_the_window_slides_every_few_batches_and_returns():
    """Two steps out of six; the last step is not random, so starts are 0, 1, 2, 3."""
    window = Window(2, every=10)
    found = [kinds(window, version=v) for v in (0, 9, 10, 20, 30, 40)]
    assert found == ["oossss", "oossss", "soosss", "ssooss", "sssoos", "oossss"]
    assert kinds(Window(2, stride=2, every=1), version=1) == "ssooss"
    assert [kinds(Window(2, every=1, end=3), version=v) for v in range(3)] == ["oossss", "soosss", "oossss"]


def test_random_windows_differ_between_groups():
    found = {kinds(RandomWindow(2, end=4), seed=s) for s in range(30)}
    assert found == {"oossss", "soosss", "ssooss"}


def test_the_suffix_grows_backwards_and_what_precedes_it_is_common():
    """From 2 to 4 steps in 30 batches: three sizes, ten batches each."""
    suffix = Suffix(2, most=4, over=30)
    found = [kinds(suffix, version=v) for v in (0, 9, 10, 29, 1000)]
    assert found == ["ccccoo", "ccccoo", "cccooo", "ccoooo", "ccoooo"]
    assert kinds(Suffix(2, most=4, tail=1)) == "cccoos"


def test_a_random_subset_of_steps_is_trained():
    choice = RandomSteps(count=3)
    masks = [choice.trained(choice.kinds(6, 0, 0), seed) for seed in range(40)]
    assert all(int(mask.sum()) == 3 and not bool(mask[5]) for mask in masks)
    assert len({tuple(mask.tolist()) for mask in masks}) == 10  # all subsets of 3 out of 5


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Flow(0), "process.shift must be > 0"),
        (lambda: Diffusion(first=0.5, last=0.1), "first <= last"),
        (lambda: Diffusion(length=5).grid(6), "sampler.steps must be <= process.length"),
        (lambda: DDIM(eta=2), "sampler.eta must be in"),
        (lambda: CPS(noise=2), "sampler.noise must be in"),
        (lambda: FlowSDE(0), "sampler.steps must be >= 1"),
        (lambda: FlowSDE().table(Diffusion()), "sampler FlowSDE belongs to a flow, got Diffusion"),
        (lambda: DDIM().table(Flow()), "sampler DDIM belongs to a diffusion, got Flow"),
        (lambda: Window(6).kinds(6, 0, 0), "a window of 6 steps from step 0 does not fit before 5"),
        (lambda: Suffix(3, most=7).kinds(6, 0, 0), "7 steps do not fit into 6"),
        (lambda: EveryStep(6).check(6), "trains no step"),
        (lambda: RandomSteps(count=0), "choice.count must be >= 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_numbers_of_equal_samplers_are_computed_once():
    sampler: Sampler = FlowSDE(7)
    assert sampler.table(Flow()) is replace(sampler).table(Flow())
