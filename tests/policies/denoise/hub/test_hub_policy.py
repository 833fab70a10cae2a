"""What every denoising policy must do, over pipelines of diffusers; adapters; saving."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from diffusers import DiffusionPipeline

from policies.denoise.hub.drawn import drawn, prompt, rolled_out, stirred
from saccade.core.batch import pack
from saccade.core.content import Image
from saccade.core.errors import CapabilityError, ContractError, DataError
from saccade.core.policy import Need, Sampling
from saccade.core.reference import Adapters, Initial
from saccade.core.trajectory import Context, Prompt, Task, Trajectory, forced_turn
from saccade.policies.denoise.hub_policy import ADAPTER
from saccade.policies.denoise.steps import DDIM, FlowSDE, Window
from saccade.policies.denoise.surrogate import Surrogate
from saccade.policies.lora import LoRA

SMALL = LoRA(rank=2, alpha=6.0)
FAMILIES = ("sd1", "sdxl", "sd3", "flux")


@pytest.fixture(scope="module")
def guided(make):
    """A guided policy of each family with adapters that do something; tests leave it as it is."""
    return cache(lambda name: stirred(make(name, guidance=3.0, lora=SMALL)))


@pytest.mark.parametrize("name", [*FAMILIES, "sd2_zero"])
def test_the_ratio_is_one_before_the_first_update(guided, name):
    policy = guided(name)
    batch = rolled_out(policy)
    with torch.no_grad():
        out = policy.log_prob(batch)
    assert int(batch.mask.sum()) == 4 * 4 and bool((batch.old_logp[batch.mask] != 0).all())
    assert float((out.logp - batch.old_logp)[batch.mask].abs().max()) < 1e-5
    assert bool((out.logp[~batch.mask] == 0).all())


@pytest.mark.parametrize("name", FAMILIES)
def test_training_and_sampling_show_the_network_the_same(guided, name, monkeypatch):
    """Every (latent, time, condition) of a scored step is one that the rollout evaluated."""
    policy, seen = guided(name), []
    predict = policy.denoiser.predict

    def watched(x, t, conditions):
        told = {key: value.double().flatten(1) for key, value in conditions.items()}
        flat = torch.cat([x.double().flatten(1), t.double()[:, None], *told.values()], 1)
        seen.append({row.numpy().tobytes() for row in flat})
        return predict(x, t, conditions)

    monkeypatch.setattr(policy.denoiser, "predict", watched)
    batch = rolled_out(policy)
    acted = set().union(*seen)
    seen.clear()
    policy.log_prob(batch)
    scored = set().union(*seen)
    # Four random steps of four pictures, with and without caption.
    assert len(scored) == 32 and scored < acted


@pytest.mark.parametrize("name", ["sd1", "sd3"])
def test_guidance_mixes_the_plain_predictions(guided, name):
    """w = 3: the blank prediction and three times the difference."""
    policy = guided(name)
    x = torch.randn(2, *policy.denoiser.shape, generator=torch.Generator().manual_seed(0))
    t, rows = policy.process.grid(4)[1].expand(2), torch.arange(2)
    predictor = policy.predictor([prompt(0), prompt(1)], 3.0)
    with torch.no_grad():
        found, _ = predictor(x, t, rows)
        told, nothing = predictor.plain(x, t, rows), predictor.blank(x, t)
    assert float((told - nothing).abs().max()) > 1e-2
    torch.testing.assert_close(found, 3 * told - 2 * nothing, atol=1e-4, rtol=1e-4)


def test_the_blank_prompt_of_an_xl_model_is_zero(guided):
    assert all(bool((value == 0).all()) for value in guided("sdxl").denoiser.blank().values())
    assert any(bool((value != 0).any()) for value in guided("sd1").denoiser.blank().values())


def test_captions_are_encoded_once_and_without_gradient(make):
    policy = make("sd3", guidance=2.0)
    assert policy.denoiser.captions_encoded == 0
    batch = rolled_out(policy, prompts=3)
    assert policy.denoiser.captions_encoded == 4
    policy.log_prob(batch)
    rolled_out(policy, prompts=3)
    policy.log_prob(batch, Need(kl_to=Initial().start(policy)))
    assert policy.denoiser.captions_encoded == 4
    assert not any(value.requires_grad for value in policy.denoiser.condition(batch.prompts).values())


def test_only_the_denoiser_belongs_to_the_policy_and_copies_share_the_rest(make):
    policy = make("sd1")
    owned = {id(p) for p in policy.parameters()}
    assert owned == {id(p) for p in policy.denoiser.base.parameters()}
    frozen = [p for module in policy.denoiser.frozen.modules for p in module.parameters()]
    assert frozen and not any(p.requires_grad for p in frozen)
    copied = copy.deepcopy(policy)
    assert copied.denoiser.frozen is policy.denoiser.frozen
    assert not owned & {id(p) for p in copied.parameters()}
    policy.double()
    assert policy.denoiser.vae.dtype == torch.float64


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_of_training_changes_adapters_only(make, name):
    policy = make(name, lora=SMALL, guidance=2.0)
    before = copy.deepcopy(policy.state_dict())
    batch = rolled_out(policy)
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=1.0)
    policy.log_prob(batch).logp.sum().backward()
    optimiser.step()
    changed = {key for key, value in policy.state_dict().items() if not value.equal(before[key])}
    assert changed and all("lora_" in key for key in changed)
    # Fresh adapters are products with zero: only the second factor has a gradient yet.
    assert all("lora_B" in key for key in changed)
    assert {n for n, p in policy.named_parameters() if p.requires_grad} >= changed


@pytest.mark.parametrize("name", ["sd1", "flux"])
def test_every_weight_is_trained_without_adapters(make, name):
    policy = make(name, checkpointing=True)
    policy.log_prob(rolled_out(policy)).logp.sum().backward()
    lacking = [n for n, p in policy.named_parameters() if p.grad is None or not bool(torch.isfinite(p.grad).all())]
    assert not lacking


def test_gradients_do_not_depend_on_checkpointing(make):
    grads = []
    for checkpointing in (False, True):
        policy = stirred(make("sd3", lora=SMALL, checkpointing=checkpointing))
        policy.log_prob(rolled_out(policy)).logp.sum().backward()
        grads.append([p.grad for p in policy.parameters() if p.requires_grad])
    assert all((a - b).norm() <= 1e-4 * a.norm() + 1e-7 for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_without_adapters_the_policy_is_the_checkpoint(guided, make, name):
    policy, plain = guided(name), make(name, guidance=3.0)
    batch = rolled_out(policy)
    with torch.no_grad():
        on, base = policy.log_prob(batch).logp, plain.log_prob(batch).logp
        assert float((on - base).abs().max()) > 1e-2
        with policy.without_adapters():
            off = policy.log_prob(batch).logp
        assert float((off - base).abs().max()) < 1e-5 * float(base.abs().max())
        assert policy.log_prob(batch).logp.equal(on)


@pytest.mark.parametrize("name", ["sd1", "sd3"])
def test_kl_is_exact_and_equal_for_both_kinds_of_reference(make, name):
    """Of normal densities with one deviation: the squared distance of means over twice the variance, averaged."""
    policy = make(name, lora=SMALL, guidance=2.0).double()
    copied, off = Initial().start(policy), Adapters().start(policy)
    stirred(policy)
    batch = rolled_out(policy)
    one, other = (policy.log_prob(batch, Need(kl_to=reference)).kl for reference in (copied, off))
    assert one[batch.mask].min().item() > 1e-9
    torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)
    record, table = batch.trajectories[0].turns[0].record, policy.table
    x, t = record.states[2][None].double(), table.time[2:3]
    means = []
    for them in (policy, copied):
        with torch.no_grad():
            prediction, _ = them.predictor(batch.prompts, 2.0)(x, t, torch.tensor([0]))
        clean, noise = policy.process.split(x, prediction, t)
        means.append(table.signal[2] * clean + table.direction[2] * noise)
    want = ((means[0] - means[1]) ** 2).mean() / (2 * table.std[2] ** 2)
    assert one[0, 2].item() == pytest.approx(want.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["sd2", "sd3"])
def test_surrogate_scores_finished_pictures(make, name):
    policy = stirred(make(name, likelihood=Surrogate(draws=3, behaviour=True), lora=SMALL))
    batch = rolled_out(policy)
    out = policy.log_prob(batch, Need(kl_to=Adapters().start(policy)))
    assert batch.mask.shape == (4, 3) and bool(batch.mask.all())
    assert (out.logp - batch.old_logp).abs().max().item() < 1e-5
    assert bool((out.kl > 0).all())
    out.logp.sum().backward()
    assert any(p.grad is not None and bool((p.grad != 0).any()) for p in policy.parameters())


def test_pictures_of_others_are_scored(make):
    policy = make("sd3", lora=SMALL)
    image = drawn(policy, 1, 1)[0][0].output[0]
    start = prompt(0)
    (act,) = policy.encode([Context(start)], [(image,)])
    batch = pack([[Trajectory(start, [forced_turn((image,), act.record, len(act.logp))])]])
    assert policy.log_prob(batch).logp.sum().item() < 0
    with pytest.raises(DataError, match="draws pictures of 16x16, got one of 16x12"):
        policy.encode([Context(start)], [(Image(image.pixels[:12]),)])


@pytest.mark.parametrize("name", FAMILIES)
def test_pictures_are_differentiable_through_the_autoencoder(make, name):
    policy = make(name, lora=SMALL, guidance=2.0)
    contexts = [Context(prompt(0))]
    image = policy.rsample(contexts, n=2, seeds=[4, 5], keep_last=2)
    acts = policy.act(contexts, n=2, sampling=Sampling(), seeds=[4, 5])[0]
    pixels = torch.stack([torch.from_numpy(act.output[0].pixels.copy()) for act in acts])
    assert float((255 * image.detach().permute(0, 2, 3, 1) - pixels).abs().max()) < 0.51
    image.sum().backward()
    assert any(p.grad is not None and bool((p.grad != 0).any()) for n, p in policy.named_parameters() if "lora_B" in n)
    assert all(p.grad is None for module in policy.denoiser.frozen.modules for p in module.parameters())


def test_windows_shared_noise_and_kept_halves(make):
    policy = make(
        "sd3", sampler=FlowSDE(6), choice=Window(2, start=1), guidance=2.0, shared_noise=True, reuse_unconditional=True
    )
    batch = rolled_out(policy, n=3)
    before = policy.denoiser.rows_predicted
    with torch.no_grad():
        out = policy.log_prob(batch)
    # Per group: one common state at the first step, three at the second; captions only.
    assert policy.denoiser.rows_predicted - before == 2 * (1 + 3)
    assert float((out.logp - batch.old_logp)[batch.mask].abs().max()) < 1e-5


def test_weights_in_half_precision_draw_and_learn(make):
    policy = make("sd3", dtype="bfloat16", lora=SMALL, guidance=2.0)
    dtypes = {"lora_" in n: p.dtype for n, p in policy.named_parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    batch = rolled_out(policy)
    out = policy.log_prob(batch)
    assert out.logp.dtype == torch.float32
    assert (out.logp - batch.old_logp).abs().max().item() < 0.05
    out.logp.sum().backward()
    assert any(p.grad is not None and bool((p.grad != 0).any()) for p in policy.parameters())


def predictions(pipeline, name, denoiser, conditions, x, t):
    """What a plain network says to the inputs that ours is given."""
    held = denoiser.network
    denoiser.network = getattr(pipeline, name)
    try:
        with torch.no_grad():
            return denoiser.predict(x, t, conditions)
    finally:
        denoiser.network = held


@pytest.mark.parametrize("name", [*FAMILIES, "sd3_without_t5"])
def test_what_is_saved_loads_in_plain_diffusers_and_here(make, tmp_path, name):
    """As ``load_lora_weights`` on the saved pipeline, on the one training started from, and as a policy again."""
    policy = stirred(make(name, lora=SMALL))
    denoiser = policy.denoiser
    conditions = denoiser.condition([prompt(0), prompt(1)])
    x = torch.randn(2, *denoiser.shape, generator=torch.Generator().manual_seed(0))
    t = policy.process.grid(4)[1].expand(2)
    with torch.no_grad():
        want = denoiser.predict(x, t, conditions)
    policy.save_pretrained(tmp_path)
    with torch.no_grad():
        assert denoiser.predict(x, t, conditions).equal(want)
    absent = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd3_without_t5" else {}
    for folder in (tmp_path, policy.spec.model):
        pipeline = DiffusionPipeline.from_pretrained(folder, **absent)
        base = predictions(pipeline, denoiser.network_name, denoiser, conditions, x, t)
        assert float((base - want).abs().max()) > 1e-2
        pipeline.load_lora_weights(tmp_path)
        found = predictions(pipeline, denoiser.network_name, denoiser, conditions, x, t)
        assert float((found - want).abs().max()) < 1e-5 * max(1.0, float(want.abs().max()))
    again = replace(policy.spec, model=str(tmp_path), lora=None).build(torch.device("cpu"))
    with torch.no_grad():
        found = again.denoiser.predict(x, t, conditions)
    assert float((found - want).abs().max()) < 1e-5 * max(1.0, float(want.abs().max()))
    # Saved once more without adapters, the folder is the checkpoint's again.
    with policy.without_adapters():
        policy.save_pretrained(tmp_path)
    assert not (tmp_path / ADAPTER).exists()


def test_a_pipeline_trained_whole_is_saved_whole(make, tmp_path):
    policy = make("sd1")
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
    policy.save_pretrained(tmp_path)
    state = DiffusionPipeline.from_pretrained(tmp_path).unet.state_dict()
    assert all(value.equal(state[key]) for key, value in policy.denoiser.base.state_dict().items())
    with pytest.raises(CapabilityError, match="no adapters to save"):
        policy.save_adapter(tmp_path)
    with pytest.raises(CapabilityError, match="no adapters"):
        policy.without_adapters()


@pytest.mark.parametrize(("deterministic", "steps"), [(False, 5), (True, 4)])
def test_broken_latents_are_reported_with_their_step(make, deterministic, steps):
    """The network breaks after some steps, as if its activations had overflowed; repaired, the policy draws on."""
    policy = make("sd1")
    predict, calls = policy.denoiser.predict, []

    def broken(x, t, conditions):
        calls.append(t)
        out = predict(x, t, conditions)
        return torch.cat([out[:1] * float("nan"), out[1:]]) if len(calls) == 3 else out

    policy.denoiser.predict = broken
    with pytest.raises(ContractError, match=rf"step 2 of a denoising chain of {steps}: 1 of 4 predictions") as caught:
        drawn(policy, deterministic=deterministic)
    assert "\n" not in str(caught.value) and len(calls) == 3
    policy.denoiser.predict = predict
    assert len(drawn(policy, deterministic=deterministic)) == 2


def test_pictures_in_a_prompt_are_refused(guided):
    start = Prompt(Task("odd", ()), (drawn(guided("sd1"), 1, 1)[0][0].output[0],))
    with pytest.raises(DataError, match="task 'odd': an image generator reads captions, got Image"):
        guided("sd1").act([Context(start)], sampling=Sampling(), seeds=[0])


def test_a_given_sampler_is_taken(make):
    policy = make("sd1", sampler=DDIM(5, eta=0.5))
    assert policy.table.steps == 5 and rolled_out(policy).mask.shape == (4, 5)
