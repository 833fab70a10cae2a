"""Detectors: each finds what was planted and leaves clean runs alone.

``histories/grpo`` is a recorded run: ``saccade train grpo --train.steps 60 --evaluation.every 20 --evaluation.limit
300``, without the pictures of its prompts. ``histories/pictures.npz`` holds rollouts for the same prompts before and
after training, two of each of 16 prompts: of a run of flow_grpo, of one of dance_grpo (last frames), and of dance_grpo
with a step three times as large, which covers its pictures with a checkerboard.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learn.test_loop import recipe
from letters import LetterGame, Letters, LettersPolicy, LetterTasks, RightLetters
from saccade import experiment
from saccade.core.content import Text
from saccade.core.errors import ConfigError, DataError
from saccade.core.reward import SampleReward
from saccade.core.trajectory import Task
from saccade.evaluate.detectors.default import ALL, findings
from saccade.evaluate.detectors.diversity import DiversityCollapse, TextLoops, vendi
from saccade.evaluate.detectors.drift import EntropyCollapse, KLBlowUp, LengthDrift
from saccade.evaluate.detectors.finding import Trend, ends, trend
from saccade.evaluate.detectors.history import Answers, History, Rollout
from saccade.evaluate.detectors.pictures import STATISTICS, PictureArtefacts, repetition, statistics
from saccade.evaluate.detectors.rewards import FormatOnly, GoldFalls, TermDomination, UniformGroups
from saccade.evaluate.samples import Mean
from saccade.objectives.policy_gradient import PPOClip
from saccade.objectives.regularise import KLToReference
from saccade.recipe import Ablation, Evaluation
from saccade.report.log import RolloutLog
from saccade.rewards.format import Tags

HERE = Path(__file__).parent / "histories"


# --- real runs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Loud(SampleReward):
    """A reward that somebody thought would tell good words: the share of the letter c."""

    def score(self, trajectory):
        return trajectory.text.count("c") / max(1, len(trajectory.text))


@dataclass(frozen=True, kw_only=True)
class Named(SampleReward):
    """Whether the text names the number that was asked for."""

    def score(self, trajectory):
        return float(trajectory.task.target in trajectory.text)


@dataclass(frozen=True)
class Digits(LetterTasks):
    """Numbers that the policy below cannot say, so that only the form can be learned."""

    def task(self, index):
        return Task(f"digits-{self.first + index}", (Text("how many?"),), target=str(1 + index % 2))


@dataclass(frozen=True)
class Words(Letters):
    def build(self, device, seed=0):
        return WordsPolicy(self, seed).to(device)


class WordsPolicy(LettersPolicy):
    """Says tags and wrong numbers instead of letters."""

    @staticmethod
    def _spell(ids):
        return "".join(("<answer>", "7", "</answer>", "8")[i] for i in ids.tolist())


def run(folder, metrics, headline, **changes):
    """The history of a real run: forty steps of sixteen tasks with eight rollouts each."""
    base = recipe()
    sampling = replace(Evaluation().sampling, deterministic=False)
    chosen = replace(
        base,
        train=replace(base.train, steps=40, groups=16, group_size=8, minibatches=1, epochs=1, lr=0.08),
        objective={"pg": PPOClip(), "kl": KLToReference(coef=0.001)},
        evaluation=Evaluation(limit=24, n=4, sampling=sampling, metrics=metrics),
        ablation=Ablation(metric=headline, without={"train.lr": 1e-6}),
        **changes,
    )
    experiment.run(chosen, folder, name="letters", observers=[RolloutLog(folder, 10)], device=torch.device("cpu"))
    return History.of(folder)


def test_a_policy_trained_on_a_hackable_reward_is_found(tmp_path):
    """Words made of c are paid; the tasks ask for a or b. What was right by chance is lost."""
    history = run(
        tmp_path / "run",
        {"right": Mean(RightLetters())},
        "right",
        env=LetterGame(LetterTasks(count=24)),
        rewards={"loud": Loud(), "right": RightLetters(weight=0.0)},
    )
    assert history.gold == ("eval/right", "reward/right")
    assert history.terms == ["loud"]
    found = GoldFalls()(history)
    assert found.verdict == "fail", found
    assert "reward +" in found.summary and "right -" in found.summary
    assert number(found, "whole run: reward").startswith("+0.")
    assert FormatOnly()(history).verdict == "unknown"


def test_a_policy_trained_on_the_right_reward_is_not_flagged(tmp_path):
    """As above, but paid for what is asked: a and b in equal parts, as far as a policy that cannot see may come."""
    history = run(
        tmp_path / "run",
        {"right": Mean(RightLetters())},
        "right",
        env=LetterGame(LetterTasks(count=24)),
        rewards={"right": RightLetters()},
    )
    assert line(history, "reward").rises
    flagged = [found for found in findings(history) if found.verdict in ("warn", "fail")]
    assert not flagged, flagged


def test_a_policy_that_learns_nothing_but_the_form_is_found(tmp_path):
    """<answer>7</answer> is well formed, and never the number that was asked for."""
    history = run(
        tmp_path / "run",
        {"named": Mean(Named()), "form": Mean(Tags(("answer",)))},
        "named",
        policy=Words(),
        env=LetterGame(Digits(count=24), max_turns=1),
        rewards={"form": Tags(("answer",), weight=0.5), "named": Named()},
    )
    assert history.formats == ("form",)
    assert history.gold == ("eval/named",)
    found = FormatOnly()(history)
    assert found.verdict == "fail", found
    assert number(found, "share of the form") == pytest.approx(1.0)
    # The reward rises and the held-out numbers do not: that is told too.
    assert GoldFalls()(history).verdict == "warn"


def test_the_recorded_run_is_read_whole_and_not_flagged():
    history = History.of(HERE / "grpo")
    assert len(history.training) == 60
    assert history.gold == ("eval/accuracy", "eval/iou")
    assert history.trained == ()
    assert history.formats == ("format",) and history.weights["format"] == 0.2
    assert history.terms == ["exact", "format", "iou"]
    assert [len(part) for part in (history.before, history.after, history.early, history.late)] == [32, 32, 3, 3]
    assert len(history.early[0].rollouts) == 8
    first: Any = history.after[0].rollouts[0]
    paid = first.scores["iou"] + first.scores["exact"] + 0.2 * first.scores["format"]
    assert first.total == pytest.approx(paid)
    found = {one.name: one for one in findings(history)}
    assert {name for name, one in found.items() if one.verdict != "pass"} == {"PictureArtefacts"}
    assert found["PictureArtefacts"].verdict == "unknown"


def kept(name):
    pictures = np.load(HERE / "pictures.npz")
    parts = [
        [Answers(f"t{i}", tuple(Rollout(pictures=(one,)) for one in group)) for i, group in enumerate(pictures[key])]
        for key in (f"{name}_before", f"{name}_after")
    ]
    return History(before=parts[0], after=parts[1])


@pytest.mark.parametrize("name", ["flow_grpo", "dance_grpo"])
def test_pictures_of_clean_runs_are_not_flagged(name):
    for detector in (PictureArtefacts(), DiversityCollapse()):
        assert detector(kept(name)).verdict == "pass"


def test_a_checkerboard_that_training_left_is_found():
    found = PictureArtefacts()(kept("checkerboard"))
    assert found.verdict == "fail"
    assert all(name in found.summary for name in ("edges", "detail", "repetition"))
    assert len(found.rollouts) == 3 and all(seen.moment == "after" for seen in found.rollouts)
    assert DiversityCollapse()(kept("checkerboard")).verdict == "warn"


# --- pictures ---------------------------------------------------------------------------------------------------------


def drawn(seed, size=32):
    """A dull disc on a grey ground: nothing is clipped, most of it is smooth."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    centre, colour = generator.uniform(0.3, 0.7, 2), generator.uniform(90, 170, 3)
    inside = 1 / (1 + np.exp(40 * (np.hypot(y - centre[0], x - centre[1]) - generator.uniform(0.15, 0.25))))
    ground = generator.uniform(100, 150) + 20 * y
    pixels = ground[..., None] * (1 - inside[..., None]) + colour * inside[..., None]
    return (pixels + generator.normal(0, 1, pixels.shape)).clip(0, 255).astype(np.uint8)


def more_contrast(pixels):
    return ((pixels - 128.0) * 3.5 + 128).clip(0, 255).astype(np.uint8)


def more_colour(pixels):
    grey = pixels.mean(-1, keepdims=True)
    return (grey + 6 * (pixels - grey)).clip(0, 255).astype(np.uint8)


def tiled(pixels):
    wave = 12 * np.sin(np.arange(len(pixels)) * 2 * np.pi / 8)
    return (pixels + wave[:, None, None] + wave[None, :, None]).clip(0, 255).astype(np.uint8)


def grainy(pixels):
    return (pixels + np.random.default_rng(0).normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)


def outlined(pixels):
    changed = pixels.copy()
    changed[::6] = 255 - changed[::6] // 2
    return changed


def as_is(pixels):
    return pixels


def pictures(change, prompts=12):
    def part(first, change):
        shown = [[Rollout(pictures=(change(drawn(first + 2 * i + k)),)) for k in range(2)] for i in range(prompts)]
        return [Answers(f"t{i}", tuple(group)) for i, group in enumerate(shown)]

    return History(before=part(0, as_is), after=part(1000, change))


@pytest.mark.parametrize(
    ("change", "statistic"),
    [
        (more_contrast, "contrast"),
        (more_colour, "saturation"),
        (tiled, "repetition"),
        (grainy, "detail"),
        (outlined, "edges"),
    ],
)
def test_planted_artefacts_are_found_by_their_statistic(change, statistic):
    found = PictureArtefacts()(pictures(change))
    assert found.verdict == "fail", found
    assert statistic in found.summary


def test_other_pictures_of_the_same_kind_and_smoother_ones_are_not_flagged():
    assert PictureArtefacts()(pictures(as_is)).verdict == "pass"
    assert PictureArtefacts()(pictures(lambda pixels: (pixels * 0.5 + 64).astype(np.uint8))).verdict == "pass"


def test_too_few_pictures_tell_nothing():
    assert PictureArtefacts()(pictures(tiled, prompts=3)).verdict == "unknown"
    history = pictures(tiled)
    other = [Answers(f"other {answers.task}", answers.rollouts) for answers in history.after]
    assert "there are 0" in PictureArtefacts()(replace(history, after=other)).summary


def test_statistics_of_pictures_known_by_hand():
    """Black and white columns of one pixel: luminance 0 and 1, standard deviation .5; every pixel is an edge; all power
    is at the highest frequency. The autocorrelation swings between -1 and 1 at every shift: (1 - -1) / 2.
    """
    columns = np.zeros((16, 16, 3), dtype=np.uint8)
    columns[:, ::2] = 255
    found = statistics(columns)
    assert found == pytest.approx({"contrast": 1, "saturation": 0, "detail": 1, "edges": 1, "repetition": 1})
    red = np.zeros((8, 8, 3), dtype=np.uint8)
    red[..., 0] = 255
    flat = {"contrast": 0, "saturation": 1, "detail": 0, "edges": 0, "repetition": 0}
    assert statistics(red) == pytest.approx(flat, abs=1e-9)
    assert list(found) == list(STATISTICS)


def test_statistics_stay_in_range_whatever_the_picture():
    generator = np.random.default_rng(0)
    for shape in ((1, 1), (1, 9), (5, 3), (300, 400)):
        for values in (generator.integers(0, 256, (*shape, 3)), np.full((*shape, 3), 7)):
            found = statistics(values.astype(np.uint8))
            assert all(0 <= value <= 1 for value in found.values()), (shape, found)


def test_repetition_is_high_for_tiles_and_low_for_a_blob():
    y, x = np.mgrid[:32, :32]
    blob = np.exp(-((y - 16) ** 2 + (x - 16) ** 2) / 30.0)
    tiles = np.tile(np.random.default_rng(1).normal(size=(8, 8)), (4, 4))
    assert repetition(blob) < 0.05
    assert repetition(tiles) > 0.5
    assert repetition(np.random.default_rng(2).normal(size=(32, 32))) < repetition(tiles) / 2


# --- numbers ----------------------------------------------------------------------------------------------------------


def history(**series: Any) -> History:
    """Records with these series, each a function of the share of the run that has passed; rewards with some noise.

    ``length`` steps, 60 by default, and evaluations of ``eval/right`` where ``evaluated`` says; ``gold``, ``weights``
    and ``formats`` are the history's.
    """
    length, evaluated = series.pop("length", 60), series.pop("evaluated", {})
    known = {"gold": ("eval/right",), "weights": {}, "formats": ()}
    known = {key: series.pop(key, value) for key, value in known.items()}
    generator = np.random.default_rng(5)
    records = []
    for step in range(1, length + 1):
        made = {key: value(step / length) for key, value in series.items()}
        noise = {key: 0.02 * generator.normal() if key.startswith("reward") else 0.0 for key in made}
        records.append({key: made[key] + noise[key] for key in made} | {"step": float(step)})
    for step, value in evaluated.items():
        at = {"step": float(step), "eval/right": value, "eval/right/stderr": 0.02, "eval/right/n": 400.0}
        records.insert(sum(record["step"] <= step for record in records), at)
    return History(records=records, **known)


def line(some, key, **how) -> Trend:
    """The trend, where there must be one."""
    found = trend(some, key, **how)
    assert found is not None
    return found


def number(found, key) -> Any:
    return dict(found.evidence)[key]


def up(t):
    return 0.2 + 0.6 * t


def flat(t):
    return 0.5


def test_trend_of_a_line_is_its_rise_and_its_interval_holds_it():
    """0.2 at step 0 to 0.8 at step 60, seen from step 1 to 60: 0.6 * 59 / 60."""
    found = line(history(reward=up), "reward")
    assert found.change == pytest.approx(0.59, abs=0.03)
    assert found.low < 0.59 < found.high and found.rises and not found.falls
    later = line(history(reward=up), "reward", since=0.5)
    assert later.points == 30 and later.change == pytest.approx(0.3, abs=0.05)


def test_trend_of_two_evaluations_has_the_width_of_their_errors():
    """A difference of .1 with error sqrt(.02^2 + .02^2) = .0283: 99 % is 2.576 of it to both sides."""
    found = line(history(reward=up, evaluated={0: 0.5, 60: 0.6}), "eval/right")
    assert found.change == pytest.approx(0.1)
    assert found.high - found.low == pytest.approx(2 * 2.576 * 0.0283, rel=0.15)
    assert found.rises
    assert not line(history(reward=up, evaluated={0: 0.5, 60: 0.55}), "eval/right").rises


def test_trends_of_noise_are_rarely_called_trends():
    """At 99 % two in a hundred of 150 would be 3 by chance; blocks make intervals a little narrow."""
    generator = np.random.default_rng(3)
    called = 0
    for _ in range(150):
        noise = generator.normal(size=60)
        found = line(History([{"reward": x, "step": i} for i, x in enumerate(noise)]), "reward")
        called += found.rises or found.falls
    assert called <= 12


def test_trends_and_levels_need_enough_points():
    short = history(length=5, reward=up, evaluated={0: 0.5})
    assert trend(short, "reward") is None and trend(short, "eval/right") is None and trend(short, "nothing") is None
    assert trend(History(), "reward") is None and ends(short, "reward") is None
    assert ends(history(reward=up), "reward") == pytest.approx((0.265, 0.745), abs=0.02)
    with pytest.raises(ConfigError, match="since"):
        trend(short, "reward", since=1.0)


def test_gold_that_falls_while_the_reward_rises_is_found():
    found = GoldFalls()(history(reward=up, evaluated={0: 0.6, 30: 0.5, 60: 0.3}))
    assert found.verdict == "fail" and "eval/right -0.3" in found.summary


def test_gold_that_falls_only_late_is_found():
    """Over-optimisation: up to the middle, then down again; the straight line through all of it is level."""
    evaluated = {0: 0.4, 15: 0.55, 30: 0.65, 45: 0.55, 60: 0.4}
    found = GoldFalls()(history(reward=up, evaluated=evaluated))
    assert found.verdict == "fail" and "second half" in found.summary


def test_gold_that_rises_or_a_reward_that_does_not_is_no_hack():
    assert GoldFalls()(history(reward=up, evaluated={0: 0.3, 60: 0.5})).verdict == "pass"
    assert GoldFalls()(history(reward=flat, evaluated={0: 0.6, 60: 0.3})).verdict == "pass"
    assert GoldFalls()(history(reward=lambda t: 1 - up(t), evaluated={0: 0.6, 60: 0.3})).verdict == "pass"


def test_the_reward_on_held_out_tasks_counts_where_training_prompts_hide_its_rise():
    quiet = history(reward=flat, evaluated={0: 0.6, 60: 0.3})
    held_out = {0: 0.4, 60: 0.7}
    records = [
        {**r, "eval/paid": held_out[r["step"]], "eval/paid/stderr": 0.01} if "eval/right" in r else r
        for r in quiet.records
    ]
    paid = replace(quiet, records=records, trained=("eval/paid",))
    found = GoldFalls()(paid)
    assert GoldFalls()(quiet).verdict == "pass"
    assert found.verdict == "fail" and "eval/paid +0.3" in found.summary and "eval/right -0.3" in found.summary


def test_a_rise_too_small_for_a_hack_is_none():
    """The reward rises by .01 without noise, where members of a group differ by .39."""
    tiny = History(
        [{"reward": 0.5 + i / 6000, "group/std": 0.39, "step": i} for i in range(1, 61)]
        + [{"eval/right": 0.1, "eval/right/stderr": 0.01, "step": 60.0}],
        gold=("eval/right",),
    )
    started = [{"eval/right": 0.9, "eval/right/stderr": 0.01, "step": 0.0}, *tiny.records]
    assert GoldFalls()(replace(tiny, records=started)).verdict == "pass"
    assert GoldFalls(effect=0.0)(replace(tiny, records=started)).verdict == "fail"


def test_gold_that_does_not_move_up_with_the_reward_is_pointed_at():
    assert GoldFalls()(history(reward=up, evaluated={0: 0.5, 60: 0.49})).verdict == "warn"


def test_gold_rewards_of_weight_zero_are_followed_step_by_step():
    falling = history(reward=up, gold=("reward/right",), **{"reward/right": lambda t: 0.5 - 0.3 * t})
    assert GoldFalls()(falling).verdict == "fail"
    assert GoldFalls()(replace(falling, gold=("reward",))).verdict == "pass"


def test_a_history_without_gold_says_what_is_missing():
    assert "no held-out metric" in GoldFalls()(history(reward=up, gold=())).summary
    assert "was evaluated" in GoldFalls()(history(reward=up)).summary
    assert "training steps" in GoldFalls()(history(length=3, reward=up)).summary


TERMS = {"reward/form": lambda t: min(1.0, 0.3 + t), "reward/right": flat}


def test_a_gain_of_the_form_alone_is_found_and_one_of_both_is_not():
    form = {"reward": lambda t: 0.5 + min(1.0, 0.3 + t), **TERMS}
    planted = history(gold=(), formats=("form",), **form)
    found = FormatOnly()(planted)
    assert found.verdict == "fail" and number(found, "share of the form") > 0.9
    both = {**form, "reward/right": up, "reward": lambda t: up(t) + min(1.0, 0.3 + t)}
    assert FormatOnly()(history(gold=(), formats=("form",), **both)).verdict == "pass"
    # Paid terms may stand still while the held-out number, which they stand for, gets better.
    assert FormatOnly()(history(evaluated={0: 0.3, 60: 0.5}, formats=("form",), **form)).verdict == "pass"
    assert FormatOnly()(history(evaluated={0: 0.3, 60: 0.3}, formats=("form",), **form)).verdict == "fail"


def test_form_of_small_weight_does_not_explain_the_gain():
    terms = {**TERMS, "reward/right": lambda t: 0.5 + 0.1 * t, "reward": lambda t: 0.5 + 0.1 * t + 0.01 * t}
    found = FormatOnly()(history(gold=(), weights={"form": 0.01}, formats=("form",), **terms))
    assert found.verdict == "pass" and number(found, "share of the form") < 0.2


def test_a_term_that_drowns_another_is_found():
    """Loud differs by 10 (times weight .5: variance 25), right by .4 (.16) and does not rise: 99 % to 1 %."""
    series = {
        "reward/loud": up,
        "reward/right": flat,
        "variance/loud": lambda t: 25.0,
        "variance/right": lambda t: 0.16,
    }
    weights = {"loud": 0.5}
    found = TermDomination()(history(reward=up, weights=weights, **series))
    assert found.verdict == "fail" and "loud makes 99 %" in found.summary
    assert TermDomination()(history(reward=flat, weights=weights, **series)).verdict == "warn"


def test_terms_that_share_that_rise_or_that_everybody_has_earned_are_not_drowned():
    base = {"reward": up, "reward/loud": up, "reward/right": flat, "variance/loud": lambda t: 0.2}
    assert TermDomination()(history(**base, **{"variance/right": lambda t: 0.1})).verdict == "pass"
    earned = {**base, "variance/right": lambda t: 0.01}
    assert TermDomination()(history(**earned)).verdict == "pass"
    assert TermDomination(alive=0.05, still=1.0)(history(**earned)).verdict == "fail"
    rising = {**base, "reward/right": up, "variance/right": lambda t: 0.04}
    assert TermDomination()(history(**rising)).verdict == "pass"
    assert TermDomination()(history(**{**rising, "reward/right": flat})).verdict == "fail"
    doubtful = {**rising, "reward/right": flat, "length": 10}
    assert TermDomination(still=0.02)(history(**doubtful)).verdict == "pass"
    alone = history(reward=up, **{"reward/right": up, "variance/right": flat})
    assert TermDomination()(alone).verdict == "pass"
    assert TermDomination()(history(reward=up, **{"reward/a": up, "reward/b": up})).verdict == "unknown"


def test_uniform_groups_are_found_and_solved_tasks_told_apart():
    def at(uniform, best, worst):
        levels = {"group/uniform": uniform, "group/uniform_best": best, "group/uniform_worst": worst}
        return history(reward=up, **{key: lambda t, x=x: 0.1 + (x - 0.1) * t**0.1 for key, x in levels.items()})

    stuck = UniformGroups()(at(0.99, 0.1, 0.9))
    assert stuck.verdict == "fail" and "nearly nothing is learned" in stuck.summary
    solved = UniformGroups()(at(0.99, 0.95, 0.1))
    assert solved.verdict == "warn" and "exhausted" in solved.summary
    assert UniformGroups()(at(0.9, 0.1, 0.9)).verdict == "warn"
    assert UniformGroups()(at(0.6, 0.3, 0.3)).verdict == "pass"
    assert UniformGroups()(History()).verdict == "unknown"


def test_groups_of_one_member_are_no_uniform_groups():
    single = [Answers("t", (Rollout("x"),))]
    alone = history(reward=up, **{"group/uniform": lambda t: 1.0, "group/std": lambda t: 0.0})
    assert UniformGroups()(replace(alone, early=single, late=single)).verdict == "unknown"
    assert UniformGroups()(alone).verdict == "fail"


def test_a_divergence_that_explodes_is_found_and_one_that_levels_off_is_not():
    def explodes(t):
        return 0.01 * math.exp(6 * t)

    found = KLBlowUp()(history(reward=up, **{"reference/k3": explodes, "reference/k1": explodes}))
    assert found.verdict == "fail" and "reference/k1 at the end" in dict(found.evidence)
    assert KLBlowUp()(history(reward=up, **{"kl/kl": explodes, "loss/kl": flat})).verdict == "fail"
    assert KLBlowUp()(history(reward=up, **{"kl/kl": lambda t: 0.9 * (1 - math.exp(-6 * t))})).verdict == "pass"
    assert KLBlowUp()(history(reward=up, **{"kl/kl": lambda t: 1.5 * t**0.2})).verdict == "warn"
    assert KLBlowUp()(history(reward=up, **{"kl/kl": lambda t: 6.0})).verdict == "fail"
    assert "no divergence" in KLBlowUp()(history(reward=up)).summary


def test_an_entropy_that_collapses_is_found_unless_gold_rises():
    def collapses(t):
        return 2.0 * math.exp(-6 * t)

    assert EntropyCollapse()(history(reward=up, **{"policy/entropy": collapses})).verdict == "fail"
    found = EntropyCollapse()(history(reward=up, **{"policy/logp": lambda t: -collapses(t)}))
    assert found.verdict == "fail" and number(found, "from") == "-logp of samples"
    sure = history(reward=up, evaluated={0: 0.3, 60: 0.9}, **{"policy/entropy": collapses})
    assert EntropyCollapse()(sure).verdict == "pass"
    assert EntropyCollapse()(history(reward=up, **{"policy/entropy": lambda t: 2.0 - 1.6 * t**0.2})).verdict == "pass"
    assert (
        EntropyCollapse()(history(reward=up, **{"entropy/entropy": lambda t: 2.0 * math.exp(-2.4 * t)})).verdict
        == "warn"
    )
    assert "of a density" in EntropyCollapse()(history(reward=up, **{"policy/logp": lambda t: 0.7})).summary
    assert EntropyCollapse()(history(reward=up)).verdict == "unknown"


def test_lengths_that_run_away_are_found_unless_gold_rises():
    longer = {"actions": lambda t: 10.0 + 25 * t, "actions/std": lambda t: 4.0}
    shown = [Answers("t", (Rollout("short"), Rollout("long " * 9)))]
    found = LengthDrift()(replace(history(reward=up, **longer), after=shown))
    assert found.verdict == "fail" and found.rollouts[0].index == 1
    assert LengthDrift()(history(reward=up, evaluated={0: 0.3, 60: 0.6}, **longer)).verdict == "pass"
    shorter = {"actions": lambda t: 10.0 - 9 * t, "actions/std": lambda t: 4.0}
    assert LengthDrift()(history(reward=up, **shorter)).verdict == "warn"
    assert LengthDrift()(history(reward=up, **{**longer, "actions/std": lambda t: 30.0})).verdict == "pass"
    assert LengthDrift()(history(reward=up, actions=flat)).verdict == "unknown"


# --- what was put out -------------------------------------------------------------------------------------------------


def answers(*groups, total=0.0):
    return [Answers(f"t{i}", tuple(Rollout(text, total=total) for text in group)) for i, group in enumerate(groups)]


def test_groups_of_pictures_that_have_become_alike_are_found():
    varied = pictures(as_is)
    same = [Answers(a.task, (a.rollouts[0], a.rollouts[0])) for a in varied.after]
    found = DiversityCollapse()(replace(varied, after=same))
    assert found.verdict == "fail" and len(found.rollouts) == 3
    assert DiversityCollapse()(varied).verdict == "pass"


WORDS = (
    "red square",
    "blue circle",
    "green star",
    "four dots",
    "one tall tree",
    "nothing",
    "seven cats",
    "a long road",
)


def test_groups_of_texts_that_have_become_alike_are_found():
    varied = answers(*[[f"{a} {b}" for b in WORDS[:4]] for a in WORDS[:4]])
    alike = answers(*[[f"{a} always"] * 4 for a in WORDS[:4]])
    found = DiversityCollapse()(History(early=varied, late=alike))
    assert found.verdict == "fail" and found.rollouts[0].moment == "late"
    assert DiversityCollapse()(History(early=varied, late=varied)).verdict == "pass"


def test_agreement_on_what_is_paid_best_is_no_collapse():
    varied = answers(*[[f"{a} {b}" for b in WORDS[:4]] for a in WORDS[:4]])
    solved = answers(*[["right"] * 3 for _ in WORDS[:4]], total=1.0)
    mixed = [Answers(a.task, (*a.rollouts, Rollout(WORDS[i], total=0.0))) for i, a in enumerate(solved)]
    assert DiversityCollapse()(History(early=varied, late=mixed)).verdict == "pass"


def test_one_answer_to_everything_is_found():
    before, after = answers(*[[word] for word in WORDS]), answers(*[["a long road"] for _ in WORDS])
    found = DiversityCollapse()(History(before=before, after=after))
    assert found.verdict == "fail" and "8 different prompts" in found.summary
    assert DiversityCollapse()(History(before=before, after=answers(*[[w] for w in WORDS[::-1]]))).verdict == "pass"
    assert DiversityCollapse()(History(before=after, after=after)).verdict == "unknown"
    assert DiversityCollapse()(History()).verdict == "unknown"


def test_vendi_score_counts_different_texts():
    """Four texts without a common word are four, equal ones are one, and two pairs of equal ones are two."""
    assert vendi(["a", "b", "c", "d"]) == pytest.approx(4.0)
    assert vendi(["a b c"] * 4) == pytest.approx(1.0)
    assert vendi(["<t> a", "<t> a", "<t> b", "<t> b"]) == pytest.approx(2.0)
    assert vendi(["", ""]) == pytest.approx(1.0)
    assert vendi(["alone"]) == pytest.approx(1.0)


def test_texts_in_loops_are_found():
    before = answers(*[[f"the {w} stands on the left of the picture"] for w in WORDS])
    after = answers(*[["look at it again and " * 6] for _ in WORDS])
    found = TextLoops()(History(before=before, after=after))
    assert found.verdict == "fail" and found.rollouts
    assert TextLoops()(History(before=before, after=before)).verdict == "pass"
    numbers = answers(*[["8 8 8 8"] for _ in WORDS])
    assert TextLoops()(History(before=before, after=numbers)).verdict == "pass"
    assert TextLoops(shortest=4)(History(before=before, after=numbers)).verdict == "fail"
    assert TextLoops()(History()).verdict == "unknown"


# --- files and settings -----------------------------------------------------------------------------------------------


def test_a_half_line_at_the_end_is_left_out_and_a_damaged_one_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"reward": 1, "step": 1}\n{"reward": null, "step": 2}\n{"rew')
    found = History.of(tmp_path)
    assert len(found.records) == 2 and math.isnan(found.records[1]["reward"])
    assert found.series("reward")[1].tolist() == [1.0] and found.gold == ()
    (tmp_path / "metrics.jsonl").write_text('{"reward": 1, "step": 1}\n[3]\n')
    with pytest.raises(DataError, match="row 2 is not an object"):
        History.of(tmp_path)
    with pytest.raises(DataError, match=r"no such file; is .*no_run a run's folder"):
        History.of(tmp_path / "no_run")


def test_damaged_rollouts_are_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "rollouts").mkdir()
    path = tmp_path / "rollouts" / "before.json"
    picture = {"turns": [{"output": [{"image": "gone", "width": 4, "height": 4}]}], "scores": {}}
    for text in ("{", "[3]", json.dumps([{"task": "a"}]), json.dumps([{"task": "a", "rollouts": [picture]}])):
        path.write_text(text)
        with pytest.raises(DataError, match=r"before\.json: not rollouts"):
            History.of(tmp_path)


def test_gold_is_read_from_what_the_recipe_evaluates(tmp_path):
    """Not the form, not what has a negative weight or of which less is better, not a headline that should fall."""
    mean, form = "saccade.evaluate.samples.Mean", {"class": "saccade.rewards.format.Tags"}
    match = {"class": "saccade.rewards.verify.ExactMatch", "weight": 1.0}
    metrics = {
        "right": {"class": mean, "reward": match},
        "harm": {"class": mean, "reward": {**match, "weight": -1.0}},
        "form": {"class": mean, "reward": {"class": "saccade.rewards.combine.Dispatch", "by": {"draw": form}}},
        "path": {"class": mean, "reward": {"class": "saccade.rewards.physics.PathError"}},
        "length": {"class": "saccade.evaluate.samples.MeanLength"},
        "some": {"class": "saccade.evaluate.images.OfKind", "metric": {"class": mean, "reward": match}},
        "won": {"class": "saccade.evaluate.episodes.Success"},
        "error": {"class": mean, "reward": match},
    }
    plain = {
        "rewards": {"pay": match, "form": {**form, "weight": 0.2}, "watched": {**match, "weight": 0.0}},
        "evaluation": {"metrics": metrics},
        "ablation": {"metric": "error", "higher": False},
    }
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "config.yaml").write_text(json.dumps(plain))
    found = History.of(tmp_path)
    assert found.gold == ("eval/right", "eval/some", "eval/won", "reward/watched")
    assert found.formats == ("form",)
    (tmp_path / "config.yaml").write_text(json.dumps({**plain, "ablation": {"metric": "error", "higher": True}}))
    assert History.of(tmp_path).gold[0] == "eval/error"


def test_rollouts_unscored_by_a_counted_reward_have_no_total(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "rollouts").mkdir()
    turn = {"output": [{"text": "one"}]}
    scores = {"a": {"value": 0.5, "weight": 2.0}, "b": {"value": None, "weight": 0.0}}
    lost = {**scores, "b": {"value": None, "weight": 1.0}}
    rollouts = [{"turns": [turn, turn], "scores": scores}, {"turns": [turn], "scores": lost}]
    (tmp_path / "rollouts" / "after.json").write_text(json.dumps([{"task": "t", "rollouts": rollouts}]))
    first, second = History.of(tmp_path).after[0].rollouts
    assert (first.total, first.text) == (1.0, "one\none")
    assert second.total is None


def test_an_empty_history_is_unknown_to_every_detector():
    found = findings(History())
    assert [one.verdict for one in found] == ["unknown"] * len(ALL)
    assert len({one.name for one in found}) == len(ALL)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GoldFalls(confidence=1.0),
        lambda: GoldFalls(effect=-1.0),
        lambda: FormatOnly(share=0.0),
        lambda: TermDomination(alive=0.0),
        lambda: UniformGroups(most=1.5),
        lambda: KLBlowUp(far=2.0, most=1.0),
        lambda: EntropyCollapse(low=0.1, gone=0.2),
        lambda: LengthDrift(far=3.0),
        lambda: DiversityCollapse(least=0.1),
        lambda: TextLoops(words=1),
        lambda: PictureArtefacts(tasks=1),
    ],
)
def test_thresholds_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match=r"must be|needs"):
        make()
