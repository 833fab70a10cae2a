"""Preference models: the loss from its definition, the pairs, what is learned, and judges made of it."""

import math
import pickle

import numpy as np
import pytest
import torch
from image_cases import plain, shown

from saccade.core import config
from saccade.core.errors import ConfigError, DataError
from saccade.core.reward import Score
from saccade.envs.datasets.shapes import ShapeScenes
from saccade.rewards import preference
from saccade.rewards.combine import Sum, scores
from saccade.rewards.image import Brightness
from saccade.rewards.learned import PairwiseJudge
from saccade.rewards.preference import (
    BradleyTerry,
    HardVote,
    PerPair,
    PerPrompt,
    Preference,
    PreferenceModel,
    preference_loss,
)
from saccade.rewards.shapes import SceneSoft

SCENES = ShapeScenes(count=120, kinds=("colour",), part="all")
BRIGHT = PreferenceModel(tasks=SCENES, taste=Brightness(weight=5.0), pairs=256, steps=60, channels=4)
"""Annotators who look at brightness only: quickly learned."""
MODEL = PreferenceModel(tasks=SCENES, taste=Sum((SceneSoft(), Brightness(weight=0.5))), pairs=64, steps=1, channels=4)


# --- the loss ---


def test_loss_is_the_weighted_divergence_of_the_labels():
    """From PickScore: sum_i p_i (log p_i - log phat_i) with phat = softmax(s), 0 log 0 = 0, weighted mean."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(6, generator=generator).double(), torch.randn(6, generator=generator).double()
    label = torch.tensor([1.0, 0.0, 0.5, 0.25, 0.9, 0.5], dtype=torch.float64)
    weight = torch.tensor([1.0, 1.0, 2.0, 0.5, 0.25, 3.0], dtype=torch.float64)
    total = 0.0
    for a, b, p, w in zip(first.tolist(), second.tolist(), label.tolist(), weight.tolist(), strict=True):
        hat = (math.exp(a) / (math.exp(a) + math.exp(b)), math.exp(b) / (math.exp(a) + math.exp(b)))
        total += w * sum(q * (math.log(q) - math.log(h)) for q, h in zip((p, 1 - p), hat, strict=True) if q > 0)
    expected = total / weight.sum().item()
    assert preference_loss(first, second, label, weight).item() == pytest.approx(expected, rel=1e-12)


def test_hard_labels_give_the_loss_of_reward_modelling():
    """-log sigmoid(s_w - s_l): for scores 2 and 0.5, log(1 + e^-1.5) = 0.2014."""
    one = torch.ones(1)
    assert preference_loss(2 * one, one / 2, one, one).item() == pytest.approx(0.2014, abs=1e-4)
    assert preference_loss(one / 2, 2 * one, 0 * one, one).item() == pytest.approx(0.2014, abs=1e-4)


def test_a_tie_is_learned_by_equal_scores():
    """Least value 0 at equal scores, and the gradient pulls unequal ones together."""
    first = torch.tensor([1.0], requires_grad=True)
    half, one = torch.tensor([0.5]), torch.ones(1)
    assert preference_loss(one, one, half, one).item() == pytest.approx(0, abs=1e-7)
    preference_loss(first, torch.zeros(1), half, one).backward()
    assert first.grad.item() == pytest.approx(torch.sigmoid(one).item() - 0.5)


def test_per_prompt_weights_give_every_caption_the_same_say():
    captions = ["a", "b", "a", "a"]
    assert PerPair()(captions).tolist() == [1, 1, 1, 1]
    weights = PerPrompt()(captions)
    assert weights[[0, 2, 3]].sum().item() == pytest.approx(weights[1].item()) == 1


# --- the pairs ---


def test_annotators_follow_the_taste_with_the_temperatures_noise():
    """Shares of first places against the logistic function of the difference, in bins of it."""
    model = PreferenceModel(tasks=SCENES, taste=SceneSoft(), tie=0.0, temperature=0.5)
    pairs = model.compared(SCENES, 800)
    for difference in pairs.difference.unique().tolist():
        found = pairs.label[pairs.difference == difference]
        chance = 1 / (1 + math.exp(-difference / 0.5))
        margin = 4 * math.sqrt(chance * (1 - chance) / len(found))
        if len(found) > 50:
            assert abs(found.mean().item() - (0.5 if difference == 0 else chance)) < margin


def test_ties_are_half_and_votes_are_shares():
    pairs = PreferenceModel(tasks=SCENES, taste=SceneSoft(), tie=0.1, votes=4).compared(SCENES, 200)
    assert (pairs.label[pairs.difference.abs() <= 0.1] == 0.5).all()
    assert set(pairs.label.tolist()) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert 20 < int((pairs.difference == 0).sum()) < 180, "candidates differ, but not always in what counts"


def test_focus_gives_one_caption_most_of_the_pairs():
    captions = PreferenceModel(tasks=SCENES, taste=SceneSoft(), focus=0.9).compared(SCENES, 200).captions
    assert 160 < captions.count(SCENES[0].info["caption"]) <= 200


def test_pairs_are_repeatable_and_depend_on_the_seed():
    first, again, other = (MODEL.compared(SCENES, 20, seed) for seed in (3, 3, 4))
    assert torch.equal(first.label, again.label) and first.captions == again.captions
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first.first, again.first, strict=True))
    assert first.captions != other.captions


# --- the model ---


def test_the_model_learns_what_annotators_want_and_is_standardised():
    agrees, ceiling = BRIGHT.accuracy(SCENES.split("test"), n=200)
    assert agrees > 0.85 and 0.5 < ceiling < 1
    pairs = BRIGHT.compared(SCENES, 200, seed=9)
    values = BRIGHT.scores(pairs.captions, pairs.first)
    assert abs(values.mean().item()) < 0.2 and 0.7 < values.std().item() < 1.3


def test_training_is_repeatable_and_cached(cache_folder, monkeypatch, tmp_path):
    picture, caption = [task.gold[0][0] for task in SCENES[:4]], ["one red circle"] * 4
    first = MODEL.scores(caption, picture)
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path))
    preference._network.cache_clear()
    torch.manual_seed(5)
    assert torch.allclose(MODEL.scores(caption, picture), first, atol=1e-4), "trained again"
    preference._network.cache_clear()
    assert torch.allclose(MODEL.scores(caption, picture), first, atol=1e-4), "read again"
    assert len(list((tmp_path / "rewards").iterdir())) == 1


def test_the_caption_and_the_order_of_its_words_matter():
    network = preference.Scorer(16, 4, ["blue", "circle", "left", "red"], 5).eval()
    image = torch.rand(1, 3, 16, 16).expand(3, -1, -1, -1)
    values = network(image, ["red circle left blue circle", "blue circle left red circle", "purple elephant"])
    assert len({round(value, 6) for value in values.tolist()}) == 3
    assert network.ids(["red fox circle", ""]).tolist() == [[4, 0, 2, 0, 0], [0, 0, 0, 0, 0]]


def test_reward_scores_pictures_of_any_size_and_leaves_the_rest_unscored():
    batch = [shown(plain(200, 200, 200)), shown(), shown(plain(10, 10, 10, width=40)), shown(plain(10, 10, 10))]
    found = scores(Preference(model=BRIGHT), batch)
    assert found[1] == Score(None, note="no image")
    assert found[0].total > found[2].total == pytest.approx(found[3].total, abs=1e-4)


def test_reward_agrees_with_its_differentiable_form_which_has_a_gradient():
    batch = [shown(task.gold[0][0].pixels, caption=task.info["caption"]) for task in SCENES[:5]]
    planes = torch.stack([torch.from_numpy(one.image.pixels).permute(2, 0, 1) for one in batch]).float() / 255
    planes.requires_grad_(True)
    values = Preference(model=BRIGHT).differentiable(planes, [one.prompt for one in batch])
    assert values.tolist() == pytest.approx([s.total for s in scores(Preference(model=BRIGHT), batch)], abs=1e-4)
    values.sum().backward()
    assert (planes.grad.abs().amax((1, 2, 3)) > 0).all()


def test_a_model_needs_gold_pictures_and_captions():
    from saccade.envs.datasets.digits import DigitScenes

    with pytest.raises(DataError, match="learns from gold pictures, this task has none"):
        PreferenceModel(tasks=DigitScenes(count=4, kinds=("read",)), taste=SceneSoft(), pairs=4, steps=1).network()
    with pytest.raises(DataError, match="has no captions"):
        PreferenceModel(tasks=ShapeScenes(count=0), taste=SceneSoft(), pairs=4, steps=1).network()


# --- judges ---

DARK, DIM, LIGHT = (shown(plain(v, v, v)) for v in (0, 51, 102))
"""Brightness 0, 0.2 and 0.4."""


def test_bradley_terry_is_the_logistic_function_of_the_difference():
    """(0.4 - 0.2) / 0.1 = 2: 1 / (1 + e^-2) = 0.8808."""
    judge = BradleyTerry(Brightness(), temperature=0.1)
    assert judge.compare([(LIGHT, DIM), (DIM, LIGHT), (DIM, DIM)]) == pytest.approx([0.8808, 0.1192, 0.5], abs=1e-4)
    assert BradleyTerry(Brightness(), temperature=1e-300).compare([(LIGHT, DARK)]) == [1.0]


def test_a_missing_score_loses():
    empty = shown()
    assert BradleyTerry(Brightness()).compare([(empty, DARK), (DARK, empty), (empty, empty)]) == [0, 1, 0.5]


def test_every_trajectory_is_scored_once():
    seen = []

    class Counting(Brightness):
        def score(self, trajectory):
            seen.append(trajectory)
            return super().score(trajectory)

    BradleyTerry(Counting()).compare([(a, b) for a in (DARK, DIM, LIGHT) for b in (DARK, DIM, LIGHT)])
    assert len(seen) == 3


def test_hard_votes_round_and_leave_ties():
    judge = HardVote(BradleyTerry(Brightness(), temperature=0.1), margin=0.4)
    assert judge.compare([(LIGHT, DARK), (DARK, LIGHT), (LIGHT, DIM), (DIM, DIM)]) == [1, 0, 0.5, 0.5]


def test_win_rate_does_not_depend_on_how_clear_wins_are():
    """Ranks 2, 1, 0 of three: win rates 1, 1/2, 0, whether the scores are 0.4 or 0.0004 apart."""
    judge = PairwiseJudge(comparator=HardVote(BradleyTerry(Brightness())))
    assert [score.total for score in scores(judge, [LIGHT, DIM, DARK])] == [1, 0.5, 0]
    near = [shown(plain(v, v, v)) for v in (52, 51, 50)]
    assert [score.total for score in scores(judge, near)] == [1, 0.5, 0]


@pytest.mark.parametrize(
    "value", [Preference(model=MODEL), PairwiseJudge(comparator=HardVote(BradleyTerry(Preference(model=MODEL))))]
)
def test_settings_survive_pickling_and_configuration_files(value):
    assert pickle.loads(pickle.dumps(value)) == value
    assert config.from_dict(config.load(config.dump(value))) == value


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: PreferenceModel(tasks=SCENES, taste=SceneSoft(), pairs=0), "pairs"),
        (lambda: PreferenceModel(tasks=SCENES, taste=SceneSoft(), temperature=0.0), "temperature"),
        (lambda: PreferenceModel(tasks=SCENES, taste=SceneSoft(), focus=1.5), "focus"),
        (lambda: PreferenceModel(tasks=SCENES, taste=SceneSoft(), tie=-0.1), "tie"),
        (lambda: PreferenceModel(tasks=SCENES, taste=PairwiseJudge(comparator=BradleyTerry(SceneSoft()))), "taste"),
        (lambda: BradleyTerry(SceneSoft(), temperature=0.0), "temperature"),
        (lambda: BradleyTerry(PairwiseJudge(comparator=BradleyTerry(SceneSoft()))), "reward"),
        (lambda: HardVote(BradleyTerry(SceneSoft()), margin=0.5), "margin"),
    ],
)
def test_bad_settings_are_named(build, named):
    with pytest.raises(ConfigError, match=named):
        build()
