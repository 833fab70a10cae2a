"""Adapters: only they learn, without them the policy is the checkpoint, and both leave in formats others read."""

import copy

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from policies.hf.scenes import rolled_out
from saccade.core.errors import CapabilityError, ConfigError
from saccade.core.policy import Need
from saccade.core.reference import Adapters, Initial
from saccade.policies.lora import LoRA, merged_state


def stirred(policy):
    """The policy with adapters that do something: fresh ones multiply by zero."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return policy


def test_only_adapters_get_gradient(make):
    policy = make(lora=LoRA(rank=2))
    policy.log_prob(rolled_out(policy)).logp.sum().backward()
    for name, parameter in policy.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None) == ("lora_" in name), name
    adapted = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert any(policy.family.vision in name for name in adapted)
    assert not any("lm_head" in name for name in adapted)


def test_fresh_adapters_change_nothing_and_come_from_the_seed(make):
    policy, plain = make(lora=LoRA(rank=2)), make()
    batch = rolled_out(plain)
    assert (policy.log_prob(batch).logp - plain.log_prob(batch).logp).abs().max() < 1e-5
    state = torch.get_rng_state()
    weights = [
        {n: p for n, p in policy.spec.build(torch.device("cpu"), seed).named_parameters() if "lora_A" in n}
        for seed in (0, 0, 1)
    ]
    assert torch.get_rng_state().equal(state)
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    assert not any(weights[0][name].equal(weights[2][name]) for name in weights[0])


def test_without_adapters_the_policy_is_the_checkpoint(make):
    policy, plain = stirred(make(lora=LoRA(rank=2))), make()
    batch = rolled_out(policy)
    on, base = policy.log_prob(batch).logp, plain.log_prob(batch).logp
    assert (on - base).abs().max() > 1e-2
    with policy.without_adapters():
        assert (policy.log_prob(batch).logp - base).abs().max() < 1e-5
    assert policy.log_prob(batch).logp.equal(on)


def test_kl_to_adapters_off_equals_kl_to_a_copy_of_the_start(make):
    policy = make(lora=LoRA(rank=2)).double()
    copied, off = Initial().start(policy), Adapters().start(policy)
    stirred(policy)
    batch = rolled_out(policy)
    one, other = (policy.log_prob(batch, Need(kl_to=reference)).kl for reference in (copied, off))
    assert one[batch.mask].min() > 1e-6
    assert (one - other).abs().max() < 1e-12
    one, other = (
        torch.autograd.grad(kl.sum(), [p for p in policy.parameters() if p.requires_grad]) for kl in (one, other)
    )
    assert all((a - b).norm() <= 1e-9 * (1e-6 + a.norm()) for a, b in zip(one, other, strict=True))


def test_targets_are_chosen_by_name_and_a_frozen_encoder_gets_none(make):
    policy = make(lora=LoRA(rank=2, targets=("q_proj", "v_proj")), freeze_vision=True)
    names = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert names and all(".q_proj." in name or ".v_proj." in name for name in names)
    assert not any(f".{policy.family.vision}." in name for name in names)
    with pytest.raises(ConfigError, match=r"lora\.targets: no linear map is named 'querry'; the model has .*q_proj"):
        make(lora=LoRA(targets=("q_proj", "querry")))
    with pytest.raises(ConfigError, match="no linear map is named 'lm_head'"):
        make(lora=LoRA(targets=("lm_head",)))


def test_merged_weights_reload_to_equal_logits_and_the_policy_stays(make, tmp_path):
    policy = stirred(make(lora=LoRA(rank=2, alpha=3.0)))
    batch = rolled_out(policy)
    logp, before = policy.log_prob(batch).logp, copy.deepcopy(policy.state_dict())
    policy.save_pretrained(tmp_path)
    assert all(value.equal(before[name]) for name, value in policy.state_dict().items())
    again = type(policy.spec)(str(tmp_path)).build(torch.device("cpu"))
    assert (again.log_prob(batch).logp - logp).abs().max() < 1e-5
    with policy.without_adapters():
        base = merged_state(policy.model)
    assert all(value.equal(base[name]) for name, value in make().base.state_dict().items())


def test_adapters_alone_reload_through_peft(make, tmp_path):
    policy = stirred(make(lora=LoRA(rank=2)))
    batch = rolled_out(policy)
    logp = policy.log_prob(batch).logp
    policy.save_adapter(tmp_path)
    assert not list(tmp_path.glob("model*.safetensors"))
    base = AutoModelForImageTextToText.from_pretrained(policy.spec.model)
    fresh = make()
    fresh.model = PeftModel.from_pretrained(base, tmp_path).eval()
    assert (fresh.log_prob(batch).logp - logp).abs().max() < 1e-5


def test_a_policy_without_adapters_says_so(make, tmp_path):
    policy = make()
    with pytest.raises(CapabilityError, match="no adapters to save"):
        policy.save_adapter(tmp_path)
    with pytest.raises(CapabilityError, match="no adapters"):
        policy.without_adapters()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "lora.rank must be >= 1, got 0"),
        ({"alpha": 0.0}, "lora.alpha must be > 0, got 0.0"),
        ({"targets": ()}, "lora.targets must name at least one module"),
    ],
)
def test_adapter_settings_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        LoRA(**settings)
