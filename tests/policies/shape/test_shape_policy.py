"""TinyShapes: solids from words, drawn, scored again and rendered with gradient."""

import math

import numpy as np
import pytest
import torch

from saccade.core.batch import pack
from saccade.core.content import Image, Mesh, Text
from saccade.core.errors import CapabilityError, CheckpointError, ConfigError, DataError
from saccade.core.policy import Need, Sampling
from saccade.core.reference import frozen_copy
from saccade.core.trajectory import Context, Prompt, Task, Trajectory, Turn
from saccade.envs.shapes3d import ATTRIBUTES, WORDS, Solids
from saccade.envs.single import SingleTurn
from saccade.policies.shape.tiny import TinyShapes
from saccade.testing import check_environment

CPU = torch.device("cpu")
SPEC = TinyShapes(WORDS, width=16, side=16)


@pytest.fixture(scope="module")
def policy():
    made = SPEC.build(CPU, seed=1)
    torch.nn.init.normal_(made.out.weight, std=0.03, generator=torch.Generator().manual_seed(0))
    return made


def prompts(n=3):
    return [Prompt(task, task.prompt) for task in Solids()[:n]]


def groups(policy, sampling=Sampling(temperature=1.5)):
    starts = prompts()
    acts = policy.act([Context(start) for start in starts], n=2, sampling=sampling, seeds=range(6))
    turned = [[Turn(a.output, a.record, a.logp, a.mask, a.segment) for a in some] for some in acts]
    return [[Trajectory(start, [turn]) for turn in some] for start, some in zip(starts, turned, strict=True)]


def test_solids_keep_the_contract_of_environments():
    check_environment(SingleTurn(Solids()))


def test_held_out_combinations_are_a_third_with_every_word_as_often():
    train, test = Solids(), Solids(part="test")
    said = [[task.prompt[0].text for task in tasks] for tasks in (train, test)]
    assert (len(train), len(test)) == (162, 81) and not set(said[0]) & set(said[1])
    for words in ATTRIBUTES:
        assert [sum(word in text.split() for text in said[1]) for word in words] == [27, 27, 27]


def test_ratio_is_one_and_log_probability_is_that_of_a_loop(policy):
    """sum over numbers of  -(z - m)^2 / (2 s^2) - log s - log(2 pi) / 2,  s = 1.5 x 0.03."""
    batch = pack(groups(policy))
    out = policy.log_prob(batch, Need(entropy=True))
    torch.testing.assert_close(out.logp.detach(), batch.old_logp, atol=1e-4, rtol=0)
    std, means = 1.5 * 0.03, policy.mean(batch.prompts).double()
    for i, trajectory in enumerate(batch.trajectories):
        mean = means[batch.group[i]].tolist()
        pairs = zip(trajectory.turns[0].record.z.tolist(), mean, strict=True)
        expected = sum(-((z - m) ** 2) / (2 * std**2) - math.log(std * math.sqrt(2 * math.pi)) for z, m in pairs)
        assert float(out.logp[i, 0].detach()) == pytest.approx(expected, rel=1e-4)
    assert out.entropy[0, 0].item() == pytest.approx(25 * (math.log(std) + 0.5 * math.log(2 * math.pi * math.e)))


def test_exact_kl_is_that_of_equal_normals(policy):
    """25 means moved by 0.01 each: 25 x 0.01^2 / (2 x 0.045^2)."""
    other = frozen_copy(policy)
    other.out.bias.data += 0.01
    kl = policy.log_prob(pack(groups(policy)), Need(kl_to=other)).kl
    torch.testing.assert_close(kl.detach(), torch.full((6, 1), 25 * 1e-4 / (2 * 0.045**2)), rtol=1e-3, atol=0)
    with pytest.raises(CapabilityError):
        policy.log_prob(pack(groups(policy)), Need(kl_to=TinyShapes(WORDS, width=8).build(CPU)))


def test_rendered_solids_are_those_of_the_rollout(policy):
    contexts = [Context(start) for start in prompts()]
    acts = [act for some in policy.act(contexts, n=2, sampling=Sampling(), seeds=range(6)) for act in some]
    images = policy.rsample(contexts, n=2, seeds=range(6))
    assert images.shape == (6, 3, 16, 64) and images.requires_grad
    for act, image in zip(acts, (255 * images.detach()).round(), strict=True):
        mesh, *views = act.output
        assert isinstance(mesh, Mesh) and len(views) == 4 and all(isinstance(view, Image) for view in views)
        row = np.concatenate([view.pixels for view in views], 1)
        assert np.abs(row.astype(int) - image.permute(1, 2, 0).numpy()).max() <= 1
    with pytest.raises(ConfigError, match="one step"):
        policy.rsample(contexts, seeds=range(3), stop=1)


def test_gradient_of_rendered_pixels_is_that_of_finite_differences():
    policy = SPEC.build(CPU, seed=2).double()
    contexts = [Context(start) for start in prompts(2)]
    weight = torch.randn(2, 3, 16, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    bias = policy.out.bias

    def value():
        return (weight * policy.rsample(contexts, seeds=[1, 2])).sum()

    (gradient,) = torch.autograd.grad(value(), bias)
    direction = torch.randn(25, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        bias += 1e-6 * direction
        above = value()
        bias -= 2e-6 * direction
        below = value()
    assert float(gradient @ direction) == pytest.approx(float((above - below) / 2e-6), rel=1e-3)


def test_seeds_decide_and_greedy_solids_are_the_mean(policy):
    context = [Context(prompts(1)[0])]
    a, b, c = policy.act(context, n=3, sampling=Sampling(), seeds=[1, 2, 1])[0]
    assert torch.equal(a.record.z, c.record.z) and not torch.equal(a.record.z, b.record.z)
    greedy = policy.act(context, sampling=Sampling(deterministic=True), seeds=[1])[0][0]
    torch.testing.assert_close(greedy.record.z, policy.mean(prompts(1))[0].detach())
    assert not bool(greedy.mask.any())


def test_gold_meshes_can_be_expressed(policy):
    """25 harmonics at 42 vertices miss the radii by less than two hundredths."""
    task = Solids()[5]
    (act,) = policy.encode([Context(Prompt(task, task.prompt))], [task.gold[0]])
    with torch.no_grad():
        found = policy.vertices(act.record.z[None])[0].norm(dim=1)
    assert float((found / torch.from_numpy(task.target.vertices).norm(dim=1) - 1).abs().max()) < 0.02
    shifted = Mesh(task.target.vertices + np.float32(0.1), task.target.faces)
    for output in ((), (shifted,), (Mesh(task.target.vertices[:-1], task.target.faces),)):
        with pytest.raises(DataError, match="solid/"):
            policy.encode([Context(Prompt(task, task.prompt))], [output])


def test_unknown_words_are_one_word(policy):
    said = [Prompt(Task(text, (Text(text),)), (Text(text),)) for text in ("zebra", "gnu", "wide")]
    with torch.no_grad():
        first, second, third = policy.mean(said)
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_saved_policies_come_back(policy, tmp_path):
    policy.save_pretrained(tmp_path)
    batch = pack(groups(policy))
    assert torch.equal(TinyShapes.load(tmp_path).log_prob(batch).logp, policy.log_prob(batch).logp)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError):
        TinyShapes.load(tmp_path)


def test_settings_out_of_range_are_refused():
    for settings in ({"degree": 6}, {"std": 0.0}, {"side": 0}, {"views": ()}):
        with pytest.raises(ConfigError):
            TinyShapes(WORDS, **settings)
