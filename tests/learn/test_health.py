"""Numbers about training that no objective asks for, by hand and however the batch is cut."""

import math
from dataclasses import replace

import pytest
import torch

from learn.test_loop import Recorder, recipe
from saccade.core.batch import pack
from saccade.core.content import Text
from saccade.core.policy import LogProbs
from saccade.core.reward import Score
from saccade.core.trajectory import Prompt, Task, Trajectory, Turn
from saccade.feeds.demonstrations import Demonstrations
from saccade.learn.loop import Run, summary, train
from saccade.learn.step import Health
from saccade.objectives.policy_gradient import PPOClip
from saccade.objectives.regression import NLL


def group(name, *members):
    """Trajectories of (log-probabilities, scores)."""
    prompt = Prompt(Task(name, (Text("?"),)), (Text("?"),))
    made = []
    for logp, scores in members:
        logp = torch.tensor(logp)
        kept = torch.ones(len(logp), dtype=torch.bool)
        turn = Turn((Text("x"),), None, logp, kept, torch.zeros(len(logp), dtype=torch.int64))
        made.append(Trajectory(prompt, [turn], scores={key: Score(value) for key, value in scores.items()}))
    return made


def test_ratios_and_divergences_by_hand():
    """Ratios 1, 2 and .5: largest 2, effective share (3.5)^2 / (3 * 5.25) = .7778; the padding does not count.

    To the reference d = 0, log 2, 0: k1 = log 2 / 3, k2 = log(2)^2 / 6, k3 = (1/2 - 1 + log 2) / 3.
    """
    batch = pack([group("a", ([-1.0, -2.0], {}), ([-1.0], {}))])
    double = math.log(2)
    out = LogProbs(
        torch.tensor([[-1.0, -2.0 + double], [-1.0 - double, 0.0]]), entropy=torch.tensor([[1.0, 2], [3, 9]])
    )
    reference = torch.tensor([[-1.0, -2.0], [-1.0 - double, 0.0]])
    batch = replace(batch, ref_logp=reference)
    whole = Health()
    whole.add(batch, out, ratios=True)
    found = whole.record()
    assert found["ratio/max"] == pytest.approx(2.0)
    assert found["ratio/ess"] == pytest.approx(3.5**2 / (3 * 5.25))
    assert found["reference/k1"] == pytest.approx(double / 3)
    assert found["reference/k2"] == pytest.approx(double**2 / 6)
    assert found["reference/k3"] == pytest.approx((double - 0.5) / 3)
    assert found["policy/entropy"] == pytest.approx(2.0)
    cut = Health()
    for i in (0, 1):
        piece = batch.take(torch.tensor([i]))
        width = piece.mask.shape[1]
        assert out.entropy is not None
        one = LogProbs(out.logp[i : i + 1, :width], entropy=out.entropy[i : i + 1, :width])
        cut.add(replace(piece, ref_logp=reference[i : i + 1, :width]), one, ratios=True)
    assert cut.record() == pytest.approx(found)


def test_the_variance_of_a_term_is_weighted_and_inside_groups():
    """Term x, weight .5: groups (0, 4) and (10, 10): deviations -+2 and 0, times .5: mean of (1, 1, 0, 0) = .5."""
    groups = [
        group("a", ([-1.0], {"x": 0.0, "y": 1.0}), ([-1.0, -1.0, -1.0], {"x": 4.0, "y": 1.0})),
        group("b", ([-1.0], {"x": 10.0, "y": 0.0}), ([-1.0], {"x": 10.0, "y": 0.0})),
    ]
    found = summary(pack(groups, {"x": 0.5, "y": 1.0}))
    assert found["variance/x"] == pytest.approx(0.5) and found["variance/y"] == 0.0
    assert found["actions"] == 1.5 and found["actions/std"] == pytest.approx(math.sqrt(0.75))


def test_uniform_groups_are_told_apart_by_what_they_got():
    """Groups (1, 1), (0, 0), (0, 1) and (.5, .5): three of four uniform, one at the best and one at the worst."""
    members = {"a": (1.0, 1.0), "b": (0.0, 0.0), "c": (0.0, 1.0), "d": (0.5, 0.5)}
    groups = [group(name, *(([-1.0], {"x": value}) for value in values)) for name, values in members.items()]
    found = summary(pack(groups))
    kinds = [found[f"group/{kind}"] for kind in ("uniform", "uniform_best", "uniform_worst")]
    assert kinds == [0.75, 0.25, 0.25]


def test_a_step_without_scored_trajectories_has_a_summary():
    found = summary(pack([group("a", ([-1.0], {"x": None}), ([-1.0], {"x": None}))]))
    assert "group/uniform_best" not in found and found["variance/x"] == 0.0


def test_first_updates_are_on_policy_and_later_ones_are_not():
    """One update a step: every ratio is 1. Several: the largest of the step, and a share below 1."""
    once, often = Recorder(), Recorder()
    base = recipe()
    train(replace(base, train=replace(base.train, minibatches=1, epochs=1)), Run(observers=[once]))
    train(base, Run(observers=[often]))
    assert all(record["ratio/max"] == pytest.approx(1, abs=1e-5) for record in once.records)
    assert all(record["ratio/ess"] == pytest.approx(1, abs=1e-5) for record in once.records)
    assert max(record["ratio/max"] for record in often.records) > 1.05
    assert min(record["ratio/ess"] for record in often.records) < 0.9999
    for record in often.records:
        assert record["reference/k3"] == pytest.approx(record["kl/kl"], rel=1e-4, abs=1e-6)
        assert record["policy/entropy"] == pytest.approx(record["entropy/entropy"], rel=1e-4)


def test_what_is_not_known_is_not_recorded():
    """No reference, no entropies, and demonstrations have no behaviour policy."""
    plain, shown = Recorder(), Recorder()
    train(recipe(objective={"pg": PPOClip()}), Run(observers=[plain]))
    train(recipe(objective={"nll": NLL()}, feed=Demonstrations()), Run(observers=[shown]))
    for key in ("reference/k1", "policy/entropy"):
        assert key not in plain.records[0] and key not in shown.records[0]
    assert "ratio/max" in plain.records[0] and "ratio/max" not in shown.records[0]


def test_numbers_do_not_depend_on_how_the_batch_is_cut():
    large, small = Recorder(), Recorder()
    base = recipe()
    for seen, size in ((large, 10_000), (small, 7)):
        train(replace(base, train=replace(base.train, micro_size=size, steps=3)), Run(observers=[seen]))
    for a, b in zip(large.records, small.records, strict=True):
        keys = [key for key in a if key.startswith(("ratio/", "reference/", "policy/entropy"))]
        assert len(keys) == 6
        assert {key: a[key] for key in keys} == pytest.approx({key: b[key] for key in keys}, rel=1e-4, abs=1e-6)
