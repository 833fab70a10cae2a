"""``evaluate``: rounds, the store, threads, categories, given outputs."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from letters import LetterGame, Letters, LetterTasks, RightLetters
from saccade.cli.catalogue import catalogue
from saccade.core import config
from saccade.core.environment import Tasks
from saccade.core.errors import CapabilityError, ConfigError
from saccade.core.metric import Metric, Models, Row, clustered_mean
from saccade.core.policy import LocalActor, Policy, Sampling
from saccade.core.reward import Reward, SampleReward, Scope
from saccade.core.trajectory import Group, Trajectory
from saccade.evaluate.run import TASKS_AT_ONCE, NoModels, Report, evaluate, once
from saccade.evaluate.samples import Mean, MeanLength, PassAtK, Unscored
from saccade.evaluate.states import EntropyDrift, KLDrift
from saccade.evaluate.store import RolloutStore, weights_hash
from saccade.recipe import Evaluation

CPU = torch.device("cpu")
METRICS = {"right": Mean(RightLetters()), "length": MeanLength(), "pass": PassAtK(RightLetters(), k=2)}


@dataclass(frozen=True)
class Sorted(Tasks):
    """Letters with a category: odd or even; every fifth has none."""

    letters: Tasks = LetterTasks(150)

    def __len__(self) -> int:
        return len(self.letters)

    def task(self, index: int):
        info = {} if index % 5 == 4 else {"category": ("even", "odd")[index % 2]}
        return replace(self.letters[index], info=info)

    def split(self, name):
        return self


def asked(**changes) -> Evaluation:
    base = Evaluation(tasks=Sorted(), limit=150, n=2, sampling=Sampling(max_actions=3), metrics=METRICS)
    return replace(base, **changes)


ENV = LetterGame(LetterTasks(), max_turns=2)


def looked(policy: Policy | None = None, evaluation: Evaluation | None = None, **changes) -> Report:
    policy = policy or Letters().build(CPU, seed=1)
    return evaluate(Models(policy), evaluation or asked(), ENV, {"right": RightLetters()}, **changes)


def equal(a: Report, b: Report) -> bool:
    return a.rows == b.rows and a.estimates == b.estimates


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path))
    return tmp_path / "evaluations"


def store_of(policy, evaluation: Evaluation) -> RolloutStore:
    found = RolloutStore.of(policy, weights_hash(policy), ENV, evaluation.sampling, evaluation.n)
    assert found is not None
    return found


def test_report_counts_what_was_done_and_says_how_far_it_is():
    told: list[tuple[int, int]] = []
    report = looked(advance=lambda done, total: told.append((done, total)))
    assert told == [(64, 150), (128, 150), (150, 150)]
    assert (report.tasks, report.rollouts) == (150, 300)
    assert report.actions == sum(row.value for row in report.rows["length"])
    assert len(report.rows["right"]) == 300 and len(report.rows["pass"]) == 150
    assert 0 < report.rolling <= report.seconds
    assert [group[0].task.id for group in report.groups] == [f"letters-{i}" for i in range(32)]


def test_result_has_tables_by_category():
    report = looked()
    found = report.result("held-out", asked(), of={"run": "x"}, seed=0, versions={}, commit="")
    assert list(found.categories) == ["right", "length", "pass"]
    odd = [row for row in report.rows["right"] if (i := int(row.task.split("-")[1])) % 2 and i % 5 != 4]
    assert found.categories["right"]["odd"] == clustered_mean(odd)
    assert found.metrics["right"].estimate == report.estimates["right"]
    assert found.rollouts_per_second == pytest.approx(300 / report.rolling)
    assert found.tokens_per_second == pytest.approx(report.actions / report.rolling)


def test_rewards_that_no_metric_shows_are_metrics_over_all_tasks():
    """``looked`` scores with rewards; one that equals a metric row for row is not said twice."""
    report = looked()
    report.paid = {"same": list(report.rows["right"]), "other": [Row("a", 1.0), Row("b", 0.0), Row("b", 1.0)]}
    found = report.result("held-out", asked(), of={"run": "x"}, seed=0, versions={}, commit="")
    assert "reward/same" not in found.metrics
    assert found.metrics["reward/other"].tier == "sample"
    assert found.metrics["reward/other"].estimate == clustered_mean(report.paid["other"])
    assert found.values("reward/other") == report.paid["other"]


def test_stored_rollouts_are_not_made_again_and_give_the_same_report(cache):
    policy, evaluation = Letters().build(CPU, seed=1), asked()
    plain = looked(policy)
    first = looked(policy, store=store_of(policy, evaluation))
    assert len(list(cache.rglob("*.safetensors"))) == 3
    calls = policy.calls
    again = looked(policy, store=store_of(policy, evaluation))
    assert policy.calls == calls
    assert equal(plain, first) and equal(first, again)
    assert again.rolling == first.rolling, "the rate is that of the rollouts, not of the disk"
    other = replace(evaluation, metrics={"length": MeanLength()})
    assert looked(policy, other, store=store_of(policy, other)).rows == {"length": plain.rows["length"]}
    assert policy.calls == calls, "another metric needs no new rollouts"


def test_rounds_are_stored_one_by_one_so_that_a_stopped_evaluation_goes_on(cache):
    policy, evaluation = Letters().build(CPU, seed=1), asked()
    plain = looked(policy)

    def stop(done: int, total: int) -> None:
        if done == 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        looked(policy, store=store_of(policy, evaluation), advance=stop)
    assert len(list(cache.rglob("*.safetensors"))) == 2
    calls = policy.calls
    assert equal(looked(policy, store=store_of(policy, evaluation)), plain)
    one_round = policy.calls - calls
    looked(policy, asked(limit=22), store=None)
    assert policy.calls - calls - one_round == one_round, "the last 22 tasks alone were rolled out"


def test_more_tasks_share_the_whole_rounds_of_fewer(cache):
    policy = Letters().build(CPU, seed=1)
    few, many = asked(limit=TASKS_AT_ONCE), asked(limit=100)
    looked(policy, few, store=store_of(policy, few))
    looked(policy, many, store=store_of(policy, many))
    assert len(list(cache.rglob("*.safetensors"))) == 2


def test_other_weights_and_seeds_have_rollouts_of_their_own(cache):
    evaluation = asked(limit=4)
    for policy in (Letters().build(CPU, seed=1), Letters().build(CPU, seed=2)):
        for seed in (0, 1):
            stored = looked(policy, evaluation, seed=seed, store=store_of(policy, evaluation))
            assert equal(stored, looked(policy, evaluation, seed=seed))
    assert len(list(cache.rglob("*.safetensors"))) == 4


TINY = {
    "grpo": {}, "flow_grpo": {}, "diffusion_nft": {}, "dance_grpo": {}, "dream_reward": {}, "inflvg": {}, "corl": {},
    "gui_r1": {}, "progrm": {"env.max_turns": 2}, "rlvla": {"env.max_turns": 2},
}  # fmt: skip

LEARNED = ("dream_reward",)
"""Their rewards are trained when first used."""


@pytest.mark.parametrize("name", TINY)
def test_rollouts_of_every_kind_of_policy_can_be_stored(name, cache):
    """Log-probabilities included: metrics of the policy look at records, which must come back as they were."""
    if name not in catalogue():
        pytest.skip(f"the packages of {name} are not installed")
    recipe = config.overlay(catalogue()[name].make("tiny"), {"evaluation.limit": 2, "evaluation.n": 2, **TINY[name]})
    policy = recipe.policy.build(CPU, 1)
    reference = recipe.policy.build(CPU, 2)
    evaluation = replace(recipe.evaluation, sampling=replace(recipe.evaluation.sampling, deterministic=False))
    metrics: dict[str, Metric] = {"kl": KLDrift(), "length": MeanLength()}
    evaluation = replace(evaluation, metrics=metrics)
    store = RolloutStore.of(policy, weights_hash(policy), recipe.env, evaluation.sampling, 2)
    assert store is not None
    rewards = {} if name in LEARNED else recipe.rewards
    made = evaluate(Models(policy, reference), evaluation, recipe.env, rewards, store=store)
    assert len(list(cache.rglob("*.safetensors"))) == 1

    class Nobody(LocalActor):
        def act(self, *args, **kwargs):
            raise AssertionError("rolled out again")

    models = Models(policy, reference)
    found = evaluate(models, evaluation, recipe.env, rewards, store=store, actor=Nobody(policy))
    assert found.rows == made.rows and found.estimates == made.estimates
    first, second = made.groups[0][0], found.groups[0][0]
    assert {n: s.total for n, s in first.scores.items()} == {n: s.total for n, s in second.scores.items()}


@dataclass(frozen=True, kw_only=True)
class Slow(SampleReward):
    """Notes the threads that score; the later a task, the sooner it is done."""

    seen: set = None  # type: ignore[assignment]

    def score(self, trajectory: Trajectory) -> float:
        self.seen.add(threading.get_ident())
        number = int(trajectory.task.id.split("-")[1])
        time.sleep(0.002 * (3 - number % 4))
        return float(number)


@dataclass(frozen=True, kw_only=True)
class Ranked(Reward):
    """Needs all groups, or whole groups, in one call."""

    whole: Scope = "batch"
    sizes: list = None  # type: ignore[assignment]

    @property
    def scope(self) -> Scope:  # type: ignore[override]
        return self.whole

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[float]:
        self.sizes.append(len(trajectories))
        return [float(i) for i in range(len(trajectories))]


def test_threads_score_groups_side_by_side_with_results_in_order():
    seen, batches, groups = set(), [], []
    rewards = {"slow": Slow(seen=seen), "batch": Ranked(sizes=batches), "group": Ranked(whole="group", sizes=groups)}
    evaluation = asked(limit=24, metrics={name: Mean(reward) for name, reward in rewards.items()})
    policy = Letters().build(CPU, seed=1)
    plain = evaluate(Models(policy), evaluation, ENV, rewards)
    assert len(seen) == 1 and batches == [48, 48] and groups == [2] * 48
    for kept in (seen, batches, groups):
        kept.clear()
    side_by_side = evaluate(Models(policy), evaluation, ENV, rewards, workers=4)
    assert len(seen) > 1 and batches == [48, 48] and groups == [2] * 48
    assert equal(plain, side_by_side)
    for a, b in zip(plain.groups, side_by_side.groups, strict=True):
        assert [list(t.scores.items()) for t in a] == [list(t.scores.items()) for t in b]


@dataclass(frozen=True, kw_only=True)
class Broken(SampleReward):
    tried: list = None  # type: ignore[assignment]

    def score(self, trajectory: Trajectory) -> float:
        self.tried.append(trajectory.task.id)
        time.sleep(0.005)
        if trajectory.task.id == "letters-3":
            raise ZeroDivisionError("a bug in a reward")
        return 1.0


def test_exceptions_of_rewards_come_through_as_they_are_and_stop_the_rest():
    tried: list[str] = []
    with pytest.raises(ZeroDivisionError, match="a bug in a reward"):
        evaluate(Models(Letters().build(CPU)), asked(), ENV, {"broken": Broken(tried=tried)}, workers=2)
    assert len(set(tried)) < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("score")]


def test_workers_must_be_positive():
    with pytest.raises(ConfigError, match="workers must be >= 1, got 0"):
        looked(workers=0)


@dataclass(frozen=True, kw_only=True)
class Dear(SampleReward):
    """Notes what it is shown; texts of one letter cannot be scored."""

    shown: list = None  # type: ignore[assignment]

    def score(self, trajectory: Trajectory) -> float | None:
        self.shown.append(trajectory.seed)
        return None if len(set(trajectory.text)) == 1 else float(len(set(trajectory.text)))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_dear_reward_is_asked_once_for_all_metrics_of_it(workers):
    shown: list[int] = []
    dear = Dear(shown=shown)
    plain = {"mean": Mean(dear), "unscored": Unscored(dear), "pass": PassAtK(dear, 1, 3.0), "length": MeanLength()}
    policy = Letters().build(CPU, seed=1)
    before = evaluate(Models(policy), asked(metrics=plain), ENV, {"dear": dear})
    assert len(shown) == 4 * 300
    shown.clear()
    shared, metrics = once(plain, dear, 2)
    assert metrics["length"] is plain["length"]
    after = evaluate(Models(policy), asked(metrics=metrics), ENV, {"dear": shared}, workers=workers)
    assert len(shown) == len(set(shown)) == 300
    assert equal(before, after) and 0 < before.estimates["unscored"].value < 1
    assert len(shared.known) == 2 * TASKS_AT_ONCE


@pytest.mark.parametrize("whole", ["group", "batch"])
def test_rewards_of_groups_and_batches_are_asked_once_for_the_same_trajectories(whole):
    sizes: list[int] = []
    ranked = Ranked(whole=whole, sizes=sizes)
    shared, metrics = once({"mean": Mean(ranked), "again": Mean(ranked)}, ranked, 2)
    policy = Letters().build(CPU, seed=1)
    report = evaluate(Models(policy), asked(limit=10, metrics=metrics), ENV, {"ranked": shared})
    assert sizes == ([2] * 10 if whole == "group" else [20])
    assert report.rows["mean"] == report.rows["again"]
    assert {row.value for row in report.rows["mean"]} == set(range(2 if whole == "group" else 20))


@dataclass(frozen=True)
class Chunked(Metric):
    """How many groups it was shown at a time."""

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        return [Row(group[0].task.id, float(len(groups))) for group in groups]


def test_metrics_without_a_reward_of_their_own_see_whole_rounds_in_threads_too():
    evaluation = asked(metrics={"seen": Chunked(), "entropy": EntropyDrift()})
    report = looked(evaluation=evaluation, workers=3)
    assert {row.value for row in report.rows["seen"]} == {64.0, 22.0}
    assert equal(report, looked(evaluation=evaluation))


def test_metrics_of_the_policy_say_so_where_outputs_were_given():
    policy = Letters().build(CPU, seed=1)
    actor = LocalActor(policy)
    given = evaluate(NoModels(), asked(limit=5), ENV, {}, actor=actor)
    assert given.rows == looked(policy, asked(limit=5)).rows
    with pytest.raises(CapabilityError, match="there is no policy to look into: the outputs were given"):
        evaluate(NoModels(), asked(limit=5, metrics={"entropy": EntropyDrift()}), ENV, {}, actor=actor)


def test_no_tasks_are_no_numbers():
    report = looked(evaluation=asked(tasks=Sorted(LetterTasks(0))))
    assert (report.tasks, report.estimates["right"].n, report.groups) == (0, 0, [])
