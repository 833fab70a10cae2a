import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from saccade.core.content import Array, Text, Video
from saccade.core.errors import ConfigError, DataError
from saccade.core.random import fold_in
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.envs.datasets.clips import Clips
from saccade.rewards.physics import ConditionMatch, MassKept, Smoothness
from saccade.rewards.video_preference import (
    Axis,
    BradleyTerryOnly,
    BradleyTerryTies,
    ClipPreference,
    ClipPreferenceModel,
    ClipScorer,
    _moved,
    grey,
)

AXES = {
    "visual": Axis(gold=MassKept(), tie=0.03, temperature=0.03),
    "motion": Axis(gold=Smoothness(), tie=0.2, temperature=0.2),
    "prompt": Axis(gold=ConditionMatch(), tie=0.1, temperature=0.1, told=True),
}
SMALL = {"pairs": 64, "steps": 2, "channels": 4, "batch": 8}


def model(**settings):
    return ClipPreferenceModel(tasks=Clips(count=60, jitter=0.7), axes=AXES, **{**SMALL, **settings})


def test_ties_by_hand():
    """theta = 3, d = 0: e^0 / (e^0 + 3 e^0) = 1/4 for either side, (9 - 1) / (4 * 4) = 1/2 for a tie.

    At d = log 3 the first side has 3 / (3 + 3) = 1/2, the second 1 / (1 + 9) = 1/10, a tie 8 * 3 / (6 * 10) = 2/5.
    """
    loss = BradleyTerryTies(theta=3.0)
    verdict = torch.tensor([1, 0, -1])
    even = (-loss(torch.zeros(3, dtype=torch.float64), verdict)).exp().tolist()
    ahead = (-loss(torch.full((3,), math.log(3), dtype=torch.float64), verdict)).exp().tolist()
    assert even == pytest.approx([1 / 4, 1 / 2, 1 / 4]) and ahead == pytest.approx([1 / 2, 2 / 5, 1 / 10])


def test_ties_equal_the_papers_formulas():
    """P(A>B) = e^a / (e^a + theta e^b), P(tie) = (theta^2 - 1) e^a e^b / ((e^a + theta e^b) (theta e^a + e^b))."""
    random = np.random.default_rng(0)
    scores, theta = random.normal(0, 3, (50, 2)), 5.0
    verdict = random.integers(-1, 2, 50)
    expected = []
    for (a, b), v in zip(scores, verdict, strict=True):
        x, y = math.exp(a), math.exp(b)
        tie = (theta**2 - 1) * x * y / ((x + theta * y) * (theta * x + y))
        expected.append(-math.log({1: x / (x + theta * y), -1: y / (y + theta * x), 0: tie}[int(v)]))
    margin = torch.from_numpy(scores[:, 0] - scores[:, 1])
    assert BradleyTerryTies()(margin, torch.from_numpy(verdict)).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("d", [-60.0, -1.0, 0.0, 2.5, 60.0])
def test_verdicts_have_probability_one_together(d):
    loss = BradleyTerryTies(theta=5.0)(torch.full((3,), d, dtype=torch.float64), torch.tensor([1, 0, -1]))
    assert float((-loss).exp().sum()) == pytest.approx(1) and bool(torch.isfinite(loss).all())


def test_ties_pull_scores_together_only_where_they_count():
    margin = torch.tensor([2.0, 2.0], requires_grad=True)
    (pull,) = torch.autograd.grad(BradleyTerryTies()(margin, torch.zeros(2)).sum(), margin)
    (none,) = torch.autograd.grad(BradleyTerryOnly()(margin, torch.zeros(2)).sum(), margin)
    assert bool((pull > 0).all()) and none.tolist() == [0, 0]
    won = BradleyTerryOnly()(torch.tensor([0.5, 0.5]), torch.tensor([1, -1]))
    assert won.tolist() == pytest.approx([math.log(1 + math.exp(-0.5)), math.log(1 + math.exp(0.5))])


def test_heads_about_the_clip_alone_are_blind_to_the_prompt():
    torch.manual_seed(0)
    network = ClipScorer((6, 12, 12), 4, (False, False, True), ("bounce",), 4)
    task, other = Clips().task(0), Clips().task(1)
    clips = grey([task.gold[0][0]] * 2)
    one, two = network(clips, [Prompt(task, task.prompt), Prompt(other, other.prompt)])
    assert one[:2].tolist() == two[:2].tolist() and one[2] != two[2]


def test_standardisation_is_stored_with_the_weights():
    """Scores over the training clips have mean 0 and standard deviation 1; a second model reads the constants."""
    spec = model()
    network = spec.network()
    votes = spec.compared(spec.tasks, 64, fold_in(spec.seed, "train"))
    scores = spec.scores(votes.prompts, votes.first)
    torch.testing.assert_close(scores.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(scores.std(0), torch.ones(3), atol=1e-4, rtol=0)
    stored = network.state_dict()
    assert stored["mean"].shape == stored["std"].shape == (3,)


def test_frames_are_moved_by_whole_pixels_and_by_parts_of_them():
    """A sine of one period over the frame, moved by a quarter of it, is minus the cosine."""
    frames = np.random.default_rng(0).random((2, 6, 8, 3))
    moved = _moved(frames, np.array([[1.0, -2.0], [0.0, 3.0]]))
    np.testing.assert_allclose(moved[0], np.roll(frames[0], (1, -2), (0, 1)), atol=1e-12)
    np.testing.assert_allclose(moved[1], np.roll(frames[1], 3, 1), atol=1e-12)
    wave = np.sin(2 * np.pi * np.arange(6) / 6)[None, :, None, None] * np.ones((1, 6, 8, 3))
    turned = -np.cos(2 * np.pi * np.arange(6) / 6)[None, :, None, None] * np.ones((1, 6, 8, 3))
    np.testing.assert_allclose(_moved(wave, np.array([[1.5, 0.0]])), turned, atol=1e-12)


def test_verdicts_follow_gold_and_ties():
    votes = model().compared(Clips(count=60), 200)
    ties = torch.tensor([axis.tie for axis in AXES.values()])
    assert bool(((votes.verdict == 0) == (votes.gap.abs() <= ties)).all())
    clear = votes.gap.abs() > 3 * ties
    assert float((votes.verdict.sign() == votes.gap.sign())[clear].float().mean()) > 0.9


def test_a_small_model_beats_chance_and_the_model_of_ties_keeps_ties_closer():
    """Chance is 0.5 with a standard error of 0.04; this seed, an eighth of the pairs: 0.95, 0.77 and 0.81.

    Margins of ties are 0.15, 0.52 and 0.65 times those of others, and 0.29, 0.77 and 0.70 times where ties are left
    out. The defaults reach 0.97, 0.90 and 0.88, with 0.07, 0.18 and 0.47.
    """
    spec = model(pairs=1024, steps=250, channels=12, batch=64)
    held_out = Clips(count=60, jitter=0.7, seed=5)
    found = spec.accuracy(held_out, 200)
    assert all(agrees > 0.6 for agrees, _ in found.values())
    plain = replace(spec, loss=BradleyTerryOnly()).accuracy(held_out, 200)
    assert all(found[name][1] < plain[name][1] for name in AXES)


def test_a_preference_is_the_weighted_sum_of_its_axes():
    spec = model()
    task = Clips().task(0)
    trajectory = Trajectory(Prompt(task, task.prompt), [forced_turn(task.gold[0], None, 1)])
    axes = spec.scores([trajectory.prompt], [task.gold[0][0]])[0].tolist()
    (plain,) = ClipPreference(model=spec)([trajectory])
    (weighted,) = ClipPreference(model=spec, weights={"motion": 3.0, "visual": 0.0})([trajectory])
    assert plain.value == pytest.approx(sum(axes)) and weighted.value == pytest.approx(3 * axes[1] + axes[2])
    silent = Trajectory(trajectory.prompt, [forced_turn((Text("no"),), None, 1)])
    assert [score.value for score in ClipPreference(model=spec)([silent, trajectory])] == [None, plain.value]


def test_wrong_clips_and_settings_are_named():
    spec = model()
    task = Clips().task(0)
    with pytest.raises(DataError, match="size"):
        spec.scores([Prompt(task, task.prompt)], [Video(np.zeros((2, 12, 12, 3), np.uint8))])
    short = (Text("bounce"), Array("motion", np.zeros(2)))
    with pytest.raises(DataError, match="4 numbers"):
        spec.scores([Prompt(Task("t", short), short)], [task.gold[0][0]])
    for settings, message in (
        ({"pairs": 0}, "pairs"),
        ({"lr": 0.0}, "lr"),
    ):
        with pytest.raises(ConfigError, match=message):
            model(**settings)
    with pytest.raises(ConfigError, match="theta"):
        BradleyTerryTies(theta=1.0)
    with pytest.raises(ConfigError, match="taste"):
        ClipPreference(model=spec, weights={"taste": 1.0})
    with pytest.raises(ConfigError, match="tie"):
        Axis(gold=MassKept(), tie=-1.0, temperature=1.0)
