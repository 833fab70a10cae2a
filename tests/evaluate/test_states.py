"""State metrics: hand-made log-probabilities through a policy that reads them from its records, and TinyVLM."""

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from saccade.core.content import Text
from saccade.core.errors import CapabilityError, ConfigError
from saccade.core.kl import K1
from saccade.core.metric import Models, Row
from saccade.core.policy import LogProbs, Need, Policy, Sampling
from saccade.core.reference import frozen_copy
from saccade.core.reward import SampleReward, Score
from saccade.core.trajectory import Context, Prompt, Task, Trajectory, Turn
from saccade.evaluate.states import (
    DistinctNgrams,
    EntropyDrift,
    KLDrift,
    LengthDrift,
    Repetition,
    UniformGroups,
    kl_drifts,
    longest_repeat,
)
from saccade.policies.token.tiny import TinyVLM


class Recorded(Policy):
    """Its log-probabilities stand in the records, shifted by a constant; its entropy is twice the position plus one."""

    provides: ClassVar = frozenset({"entropy"})

    def __init__(self, shift=0.0, entropies=True):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor(shift))
        self.entropies = entropies
        self.sizes = []

    def log_prob(self, batch, need=Need()):
        assert not self.training and not torch.is_grad_enabled()
        self.sizes.append(len(batch))
        logp = torch.zeros_like(batch.old_logp)
        for i, trajectory in enumerate(batch.trajectories):
            values = torch.cat([turn.record for turn in trajectory.turns])
            logp[i, : len(values)] = values + self.shift
        positions = 2.0 * torch.arange(logp.shape[1]).expand_as(logp) + 1
        entropy = torch.where(batch.mask, positions, 0.0) if need.entropy and self.entropies else None
        return LogProbs(torch.where(batch.mask, logp, 0.0), entropy=entropy)

    def act(self, contexts, *, n=1, sampling, seeds):
        raise AssertionError

    def encode(self, contexts, outputs):
        raise AssertionError

    def size(self, trajectory):
        return trajectory.num_actions

    def save_pretrained(self, folder):
        raise AssertionError


@dataclass(frozen=True, kw_only=True)
class Number(SampleReward):
    def score(self, trajectory):
        return None if trajectory.text == "-" else float(trajectory.text)


def turn(length, mask=None, text="x"):
    logp = -0.1 * torch.arange(1, length + 1)
    kept = torch.ones(length, dtype=torch.bool) if mask is None else torch.tensor(mask)
    return Turn((Text(text),), logp, logp, kept, torch.zeros(length, dtype=torch.int64))


def group(name, *members):
    prompt = Prompt(Task(name, (Text("?"),)), (Text("?"),))
    return [Trajectory(prompt, list(turns)) for turns in members]


def test_kl_drift_is_the_mean_of_k3_over_actions():
    """logp - ref_logp = d = -0.2 at every action: k3 = exp(0.2) - 1 - 0.2, k1 = -0.2, whatever the length."""
    groups = [group("a", [turn(3)], [turn(1), turn(4)])]
    models = Models(Recorded(), Recorded(shift=0.2))
    rows = KLDrift().rows(groups, models)
    assert [row.task for row in rows] == ["a", "a"]
    assert [row.value for row in rows] == pytest.approx([math.exp(0.2) - 1.2] * 2, rel=1e-4)
    assert [row.value for row in KLDrift(estimator=K1()).rows(groups, models)] == pytest.approx([-0.2] * 2, rel=1e-4)


def test_kl_drift_from_itself_is_zero():
    assert KLDrift().rows([group("a", [turn(3)])], Models(Recorded(), Recorded())) == [Row("a", 0.0)]


def test_kl_drift_without_reference_says_so():
    with pytest.raises(CapabilityError, match="KLDrift needs a reference policy"):
        KLDrift().rows([group("a", [turn(1)])], Models(Recorded()))


def test_entropy_drift_is_the_mean_over_trainable_actions():
    """Entropies 1, 3, 5, 7. All four: 4. Without the first and last: (3 + 5) / 2 = 4. The first two: (1 + 3) / 2."""
    members = [turn(4)], [turn(4, [False, True, True, False])], [turn(4, [True, True, False, False])]
    rows = EntropyDrift().rows([group("a", *members)], Models(Recorded()))
    assert [row.value for row in rows] == [4.0, 4.0, 2.0]


def test_all_actions_count_where_none_may_be_trained():
    """Greedy rollouts have an empty mask; entropies 1 and 3 of the two actions, padding not counted."""
    rows = EntropyDrift().rows([group("a", [turn(2, [False, False])], [turn(5)])], Models(Recorded()))
    assert [row.value for row in rows] == [2.0, 5.0]


def test_entropy_drift_without_entropies_says_so():
    with pytest.raises(CapabilityError, match="EntropyDrift needs entropies, which Recorded does not give"):
        EntropyDrift().rows([group("a", [turn(1)])], Models(Recorded(entropies=False)))


def test_unscored_trajectories_drift_too():
    groups = [group("a", [turn(2)], [turn(2)])]
    groups[0][0].scores["iou"] = Score(None)
    assert len(EntropyDrift().rows(groups, Models(Recorded()))) == 2


def test_rows_do_not_depend_on_how_many_go_through_at_once():
    """At most three at once, groups whole: 2 + 1, 4, 2; a group larger than the limit goes alone."""
    sizes = {"a": 2, "b": 1, "c": 4, "d": 2}
    groups = [group(name, *([turn(i + 1)] for i in range(size))) for name, size in sizes.items()]
    policy = Recorded()
    rows = EntropyDrift(at_once=3).rows(groups, Models(policy))
    assert policy.sizes == [3, 4, 2]
    assert rows == EntropyDrift().rows(groups, Models(policy))
    assert EntropyDrift().rows([], Models(policy)) == []
    with pytest.raises(ConfigError, match="at_once must be >= 1, got 0"):
        EntropyDrift(at_once=0)


def test_the_policy_is_left_in_its_mode():
    policy = Recorded().train()
    EntropyDrift().rows([group("a", [turn(1)])], Models(policy))
    assert policy.training


def test_length_drift_is_the_distance_from_the_start():
    """Three and five actions against four."""
    groups = [group("a", [turn(3)], [turn(1), turn(4)])]
    assert LengthDrift(start=4.0).rows(groups, Models(Recorded())) == [Row("a", -1.0), Row("a", 1.0)]


def test_uniform_groups_is_the_share_of_groups_that_teach_nothing():
    def texts(name, *values):
        return group(name, *([turn(1, text=value)] for value in values))

    groups = [
        texts("a", "1", "1"),
        texts("b", "1", "0"),
        texts("c", "1"),
        texts("d", "0", "-", "0"),
        texts("e", "-", "1"),
    ]
    metric = UniformGroups(Number())
    rows = metric.rows(groups, Models(Recorded()))
    assert rows == [Row("a", 1.0), Row("b", 0.0), Row("d", 1.0)]
    assert UniformGroups(Number(), tolerance=1.0).rows(groups, Models(Recorded()))[1] == Row("b", 1.0)
    with pytest.raises(ConfigError, match="tolerance"):
        UniformGroups(Number(), tolerance=-1)


@pytest.mark.parametrize("deterministic", [False, True])
def test_drift_of_a_tiny_model_agrees_with_its_distributions(deterministic):
    """Entropy and k1 of each action computed from the whole distributions, one trajectory at a time."""
    from saccade.core.batch import pack

    policy = TinyVLM(width=16, layers=1, heads=2).build(torch.device("cpu"), seed=1)
    reference = frozen_copy(policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.3)
    prompt = Prompt(Task("a", (Text("how many digits?"),)), (Text("how many digits?"),))
    sampling = Sampling(max_actions=5, deterministic=deterministic)
    acts = policy.act([Context(prompt)], n=3, sampling=sampling, seeds=[1, 2, 3])[0]
    trajectories = [Trajectory(prompt, [Turn(a.output, a.record, a.logp, a.mask, a.segment)]) for a in acts]
    models = Models(policy, reference)
    entropies = [row.value for row in EntropyDrift().rows([trajectories], models)]
    drifts = [row.value for row in KLDrift(estimator=K1()).rows([trajectories], models)]
    for i, one in enumerate(trajectories):
        batch = pack([[one]])
        batch.mask = batch.real
        with torch.no_grad():
            out, ref = policy.log_prob(batch, Need(distribution=True)), reference.log_prob(batch)
        assert out.distribution is not None
        probabilities = out.distribution[0].double().exp()
        entropy = -(probabilities * probabilities.clamp(min=1e-30).log()).sum(-1).mean()
        assert entropies[i] == pytest.approx(entropy.item(), rel=1e-4)
        assert drifts[i] == pytest.approx((out.logp - ref.logp).mean().item(), abs=1e-5)
        assert abs(drifts[i]) > 1e-4


def test_all_estimators_side_by_side():
    """d = -0.2 at every action: k1 = -0.2, k2 = 0.02, k3 = exp(0.2) - 1.2."""
    models, groups = Models(Recorded(), Recorded(shift=0.2)), [group("a", [turn(3)])]
    found = {name: metric.rows(groups, models)[0].value for name, metric in kl_drifts().items()}
    expected = {"kl_k1": -0.2, "kl_k2": 0.02, "kl_k3": math.exp(0.2) - 1.2}
    assert found == pytest.approx(expected, rel=1e-4)
    assert all(metric.tier == "state" and metric.needs_reference for metric in kl_drifts().values())


def test_distinct_ngrams_by_hand():
    """ "a b a b c": pairs ab, ba, ab, bc: 3 of 4; words 3 of 5. Two turns are one text; a single word has no pair."""
    groups = [group("t", [turn(1, text="a b a"), turn(1, text="b c")], [turn(1, text="alone")])]
    assert DistinctNgrams().rows(groups, Models(Recorded())) == [Row("t", 0.75)]
    assert [row.value for row in DistinctNgrams(1).rows(groups, Models(Recorded()))] == [0.6, 1.0]
    for kind in (DistinctNgrams, Repetition):
        with pytest.raises(ConfigError, match="n must be >= 1"):
            kind(0)


def test_longest_repeat_by_hand():
    """ "x y z 1 x y z 2": x y z twice, 6 of 8 words. Four times the same word: a a a at 0 and at 1 cover all of it."""
    assert longest_repeat("x y z 1 x y z 2") == 6 / 8
    assert longest_repeat("x y 1 x y 2") == 0.0
    assert longest_repeat("x y 1 x y 2", least=2) == 4 / 6
    assert longest_repeat("a a a a") == 1.0
    assert longest_repeat("") == longest_repeat("one") == 0.0
    groups = [group("t", [turn(1, text="x y z 1 x y z 2")], [turn(1, text=" ")])]
    assert Repetition().rows(groups, Models(Recorded())) == [Row("t", 0.75)]


def test_longest_repeat_is_that_of_a_search_through_all_lengths():
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        words = [str(i) for i in torch.randint(0, 4, (25,), generator=generator).tolist()]
        best = 0.0
        for n in range(24, 1, -1):
            runs = [words[i : i + n] for i in range(26 - n)]
            places = [i for i, one in enumerate(runs) if runs.count(one) > 1]
            if places:
                best = len({i + j for i in places for j in range(n)}) / 25
                break
        assert longest_repeat(" ".join(words), least=2) == best


def test_long_texts_are_searched_in_little_time():
    started = time.perf_counter()
    assert longest_repeat("a " * 200_000) == 1.0
    assert time.perf_counter() - started < 5
