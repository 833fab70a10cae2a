"""Clips go through the same denoising policy as pictures: what of its battery depends on the latent's shape."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from saccade.core.batch import pack
from saccade.core.config import from_dict, to_dict
from saccade.core.content import Array, Image, Text, Video
from saccade.core.errors import CheckpointError, ConfigError, DataError
from saccade.core.policy import Need, Sampling
from saccade.core.reference import frozen_copy
from saccade.core.trajectory import Context, Prompt, Task, Trajectory, Turn
from saccade.policies.denoise.steps import DanceSDE, RandomSteps
from saccade.policies.denoise.surrogate import SignalWeighting, Surrogate
from saccade.policies.denoise.tiny_video import ClipNet, TinyVideoFlow

NET = ClipNet(frames=3, side=8, width=16, layers=1, heads=2, words=("bounce", "fall"))
SPECS = {
    "chain": TinyVideoFlow(net=NET, sampler=DanceSDE(4, 0.5), eval_steps=3),
    "shared noise, some steps": TinyVideoFlow(
        net=NET, sampler=DanceSDE(5, 0.5), choice=RandomSteps(count=2), shared_noise=True, eval_steps=3
    ),
    "guided": TinyVideoFlow(net=NET, sampler=DanceSDE(4, 0.5), guidance=2.0, guidance_gradient="both", eval_steps=3),
    "surrogate": TinyVideoFlow(net=NET, likelihood=Surrogate(draws=3, behaviour=True), eval_steps=3),
}


@pytest.fixture(scope="module", params=SPECS)
def spec(request):
    return SPECS[request.param]


@pytest.fixture(scope="module")
def policy(spec):
    return build(spec)


def build(spec, seed=1):
    """Weights large enough for every part of the network to matter."""
    policy = spec.build(torch.device("cpu"), seed)
    with torch.no_grad():
        policy.denoiser.leave.weight.mul_(20)
    return policy.eval()


def prompt(i=0, words="fall", values=None):
    numbers = np.array([0.1, -0.2, 0.5, 0.3 * i], np.float32) if values is None else values
    content = (Text(words), Array("motion", numbers))
    return Prompt(Task(f"task-{i}", content), content)


def drawn(policy, n=2, seeds=None, **sampling):
    contexts = [Context(prompt(i)) for i in range(2)]
    acts = policy.act(contexts, n=n, sampling=Sampling(**sampling), seeds=seeds or range(2 * n))
    return contexts, acts


def groups(policy, n=2):
    contexts, acts = drawn(policy, n)
    return [
        [Trajectory(c.prompt, [Turn(a.output, a.record, a.logp, a.mask, a.segment)]) for a in some]
        for c, some in zip(contexts, acts, strict=True)
    ]


def frames(acts):
    return [act.output[0].frames.tolist() for some in acts for act in some]


def test_outputs_are_grey_clips(policy):
    for act in (act for some in drawn(policy)[1] for act in some):
        (clip,) = act.output
        assert isinstance(clip, Video) and clip.frames.shape == (3, 8, 8, 3) and clip.fps == 4
        assert bool((clip.frames == clip.frames[..., :1]).all()) and clip.frames.flags.owndata


def test_the_ratio_is_one_before_the_first_update(policy):
    batch = pack(groups(policy))
    with torch.no_grad():
        ratio = (policy.log_prob(batch).logp - batch.old_logp)[batch.mask].exp()
    assert len(ratio) and float((ratio - 1).abs().max()) < 1e-6


def test_equal_seeds_give_equal_samples_and_others_differ(policy):
    one, again, other = (frames(drawn(policy, seeds=s)[1]) for s in ([1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7, 8]))
    assert one == again != other and len({str(clip) for clip in one}) == 4


def test_samples_and_scores_do_not_depend_on_batch_neighbours(policy):
    batch = pack(groups(policy))
    with torch.no_grad():
        together = policy.log_prob(batch).logp
        alone = torch.cat([policy.log_prob(batch.take(torch.tensor([i]))).logp for i in range(len(batch))])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    both = frames(drawn(policy)[1])
    first = policy.act([Context(prompt(0))], n=2, sampling=Sampling(), seeds=[0, 1])
    assert np.abs(np.array(frames(first)) - np.array(both[:2])).max() <= 1


def test_every_weight_gets_a_finite_gradient(policy):
    policy.zero_grad()
    policy.log_prob(pack(groups(policy))).logp.sum().backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name
        assert bool((parameter.grad != 0).any()), name


def test_saved_and_loaded_policies_draw_the_same(policy, spec, tmp_path):
    policy.save_pretrained(tmp_path)
    loaded = TinyVideoFlow.load(tmp_path)
    assert loaded.spec == spec == from_dict(to_dict(spec))
    assert frames(drawn(loaded)[1]) == frames(drawn(policy)[1])


def test_a_folder_without_a_generator_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="TinyVideoFlow"):
        TinyVideoFlow.load(tmp_path)


def test_the_mean_log_density_is_the_papers():
    """DanceGRPO's step, written from the paper in float64: mean over elements of log N(x'; mean, eta^2 |ds|).

    ``x0hat = x - s u``, ``score = -(x - (1 - s) x0hat) / s^2``, ``mean = x + ds (u - 0.5 eta^2 score)``,
    ``std = eta sqrt(-ds)``, ``s`` shifted by 3 s / (1 + 2 s).
    """
    policy = build(SPECS["chain"]).double()
    ((trajectory, *_), *_) = groups(policy)
    (turn,) = trajectory.turns
    even = [1, 0.75, 0.5, 0.25, 0]
    s = [3 * e / (1 + 2 * e) for e in even]
    told = policy.denoiser.condition([trajectory.prompt])
    for i in range(3):
        x, after = turn.record.state(i)[None], turn.record.state(i + 1)[None]
        with torch.no_grad():
            u = policy.denoiser.predict(x, torch.tensor([s[i]], dtype=torch.float64), told)
        ds = s[i + 1] - s[i]
        score = -(x - (1 - s[i]) * (x - s[i] * u)) / s[i] ** 2
        mean, std = x + ds * (u - 0.5 * 0.5**2 * score), 0.5 * math.sqrt(-ds)
        terms = [
            -((float(a) - float(m)) ** 2) / (2 * std**2) - math.log(std) - 0.5 * math.log(2 * math.pi)
            for a, m in zip(after.flatten(), mean.flatten(), strict=True)
        ]
        assert abs(float(turn.logp[i]) - sum(terms) / len(terms)) < 1e-5


def test_members_of_a_group_start_from_one_noise_and_train_some_steps():
    policy = build(SPECS["shared noise, some steps"])
    (first, second), (third, _) = ([t.turns[0] for t in group] for group in groups(policy))
    assert torch.equal(first.record.state(0), second.record.state(0))
    assert not torch.equal(first.record.state(0), third.record.state(0))
    assert not torch.equal(first.record.state(1), second.record.state(1))
    masks = torch.stack([turn.mask for turn in (first, second, third)])
    assert masks.sum(1).tolist() == [2, 2, 2] and not bool(masks[:, -1].any())


def test_clips_can_be_taught_and_come_back_as_they_are():
    policy = build(SPECS["chain"])
    clip = Video(np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8).repeat(3, 3), 4.0)
    (act,) = policy.encode([Context(prompt())], [(clip,)])
    assert act.output == (clip,) and act.record.latent.shape == (1, 3, 8, 8)
    back = policy.denoiser.to_pixels(act.record.latent[None])[0]
    assert back.tolist() == clip.frames.tolist()
    with pytest.raises(DataError, match="draws one Video, got Image"):
        policy.encode([Context(prompt())], [(Image(clip.frames[0]),)])
    with pytest.raises(DataError, match="3x8x8, got one of 2x8x8"):
        policy.encode([Context(prompt())], [(Video(clip.frames[:2]),)])


def test_gradients_go_through_the_last_steps_of_clips():
    policy = build(SPECS["chain"])
    clips = policy.rsample([Context(prompt())], n=2, seeds=[3, 4], keep_last=1)
    acts = policy.act([Context(prompt())], n=2, sampling=Sampling(), seeds=[3, 4])[0]
    assert clips.shape == (2, 3, 3, 8, 8)
    shown = torch.tensor(np.stack([act.output[0].frames for act in acts])).movedim(-1, 1)
    assert float((clips.detach() * 255 - shown).abs().max()) <= 1
    policy.zero_grad()
    clips.mean().backward()
    assert bool((policy.denoiser.leave.weight.grad != 0).any())


def test_previews_are_strips_of_frames():
    policy = build(SPECS["chain"])
    _, ((act, *_), *_) = drawn(policy)
    shown = policy.preview(Turn(act.output, act.record, act.logp, act.mask, act.segment), 3)
    assert [picture.pixels.shape for picture in shown] == [(8, 24, 3)] * 3


def test_the_divergence_from_a_copy_is_zero():
    policy = build(SPECS["chain"])
    out = policy.log_prob(pack(groups(policy)), Need(kl_to=frozen_copy(policy)))
    assert float(out.kl.detach().abs().max()) < 1e-6


def test_the_weight_of_flow_dpos_derivation_falls_with_the_noise():
    """(1 - 1/4)^2 = 9/16 of an error of 2, and nothing of one in pure noise; distances count likewise."""
    weighting, level = SignalWeighting(2.0), torch.tensor([0.25, 1.0])
    for weigh in (weighting, weighting.distance):
        assert weigh(torch.tensor([2.0, 2.0]), level).tolist() == pytest.approx([18 / 16, 0.0])


def test_prompts_matter_and_unknown_words_do_not():
    policy = build(SPECS["chain"])

    def clip(some):
        return policy.act([Context(some)], sampling=Sampling(), seeds=[1])[0][0].output[0].frames.tolist()

    plain = clip(prompt())
    assert plain == clip(prompt(words="Fall, please"))
    assert plain != clip(prompt(words="bounce")) and plain != clip(prompt(values=np.zeros(4)))


@pytest.mark.parametrize(
    ("some", "message"),
    [
        (prompt(values=np.zeros(3)), "got 3 numbers"),
        (prompt(values=np.array([0, 1, 2, np.nan])), "4 finite numbers"),
    ],
)
def test_prompts_that_cannot_be_read_are_named(some, message):
    with pytest.raises(DataError, match=message):
        build(SPECS["chain"]).act([Context(some)], sampling=Sampling(), seeds=[1])
    picture = (Image(np.zeros((8, 8, 3), np.uint8)),)
    with pytest.raises(DataError, match="got Image in the prompt"):
        build(SPECS["chain"]).denoiser.condition([Prompt(Task("t", picture), picture)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 0}, "frames"),
        ({"side": 10}, "multiple of net.patch"),
        ({"width": 18}, "width"),
        ({"words": ("two words",)}, "two words"),
        ({"numbers": -1}, "numbers"),
        ({"fps": 0.0}, "fps"),
    ],
)
def test_wrong_sizes_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ClipNet(**settings)


def test_the_default_network_has_the_cards_size():
    policy = replace(TinyVideoFlow(), net=ClipNet(words=("a", "b", "c"))).build(torch.device("cpu"))
    assert 0.155e6 < sum(p.numel() for p in policy.parameters()) < 0.17e6
