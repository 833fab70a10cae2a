from dataclasses import replace

import pytest
import torch

from policies.hf.checkpoints import build
from saccade.core.batch import pack
from saccade.core.content import Text
from saccade.core.errors import CapabilityError
from saccade.core.trajectory import Context, Prompt, Task, Trajectory, Turn
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.token.hf_critic import HFTokenCritic
from saccade.policies.token.tiny import TinyVLM

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return HFVisionLanguage(str(build("qwen2_5_vl", tmp_path_factory.mktemp("critic") / "model")))


def batch_of(policy, *texts: str):
    prompt = Prompt(Task("one", (Text("what number?"),)), (Text("what number?"),))
    acts = policy.encode([Context(prompt)] * len(texts), [(Text(text),) for text in texts])
    turns = [Turn(act.output, act.record, act.logp, act.mask, act.segment) for act in acts]
    return pack([[Trajectory(prompt, [turn]) for turn in turns]])


def test_values_start_at_zero_and_lie_on_the_table(spec):
    batch = batch_of(spec.build(CPU), "red", "a red digit")
    critic = HFTokenCritic().build(spec, CPU)
    values = critic(batch)
    assert values.value.shape == batch.mask.shape
    assert values.final.shape == (2,)
    assert bool((values.value == 0).all())
    torch.nn.init.normal_(critic.value.weight)
    values = critic(batch)
    assert bool((values.value[~batch.real] == 0).all())
    assert bool((values.value[batch.real] != 0).all())


def test_the_value_before_an_action_does_not_know_the_action(spec):
    policy = spec.build(CPU)
    batch = batch_of(policy, "red", "blue")
    critic = HFTokenCritic().build(spec, CPU)
    torch.nn.init.normal_(critic.value.weight)
    values = critic(batch)
    torch.testing.assert_close(values.value[0, 0], values.value[1, 0])
    assert abs(float((values.final[0] - values.final[1]).detach())) > 1e-6


def test_gradient_reaches_the_copy_and_not_the_policy(spec):
    policy = spec.build(CPU)
    critic = HFTokenCritic().build(spec, CPU)
    torch.nn.init.normal_(critic.value.weight)
    critic(batch_of(policy, "red")).value.sum().backward()
    assert any(p.grad is not None for p in critic.network.parameters())
    assert all(p.grad is None for p in policy.parameters())


def test_other_policies_are_refused(spec):
    with pytest.raises(CapabilityError, match="not of TinyVLM"):
        HFTokenCritic().build(TinyVLM(), CPU)


def test_the_copy_is_the_same_checkpoint(spec):
    policy = replace(spec).build(CPU)
    critic = HFTokenCritic().build(spec, CPU)
    for one, other in zip(policy.parameters(), critic.network.parameters(), strict=True):
        assert torch.equal(one, other)
