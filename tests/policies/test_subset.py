"""Choices of K of N: their probabilities, their draws, and that scoring agrees with acting."""

import itertools
import math
import pickle

import numpy as np
import pytest
import torch

from saccade.core.batch import pack
from saccade.core.content import Array, Text
from saccade.core.errors import CapabilityError, CheckpointError, ConfigError, DataError
from saccade.core.policy import Need, Sampling
from saccade.core.random import torch_generator
from saccade.core.reference import frozen_copy
from saccade.core.trajectory import Context, Observation, Prompt, Task, Trajectory, Turn
from saccade.policies.subset import PlackettLuce, SelectorPolicy, TinySelector, WithReplacement, chosen_of

CPU = torch.device("cpu")
SPEC = TinySelector(count=3, features=4, queries=2, width=8)
CHOICES = {"Plackett-Luce": PlackettLuce(), "with replacement": WithReplacement()}


@pytest.fixture(params=CHOICES.values(), ids=CHOICES)
def choice(request):
    return request.param


def build(**settings):
    """In double precision, with scores that differ."""
    policy = SelectorPolicy(TinySelector(**{**vars(SPEC), **settings}))
    generator = torch_generator(0)
    for parameter in policy.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return policy


def content(seed, rows):
    random = np.random.default_rng(seed)
    things = random.standard_normal((rows, 4)).astype(np.float32)
    return (Text("choose"), Array("context", things), Array("query", random.standard_normal((2, 4)).astype(np.float32)))


def prompt(seed, rows):
    shown = content(seed, rows)
    return Prompt(Task(f"task-{seed}", shown), shown)


def turn(act, observation=None):
    return Turn(act.output, act.record, act.logp, act.mask, act.segment, observation=observation)


def groups(policy, sampling=Sampling(temperature=0.7)):
    """Contexts of different length, groups of three, second turns that show something else or nothing new."""
    found = []
    for p, rows in enumerate((5, 3, 7)):
        start = prompt(p, rows)
        group = [Trajectory(start) for _ in range(3)]
        acts = policy.act([Context(start)], n=3, sampling=sampling, seeds=range(10 * p, 10 * p + 3))[0]
        for i, (trajectory, act) in enumerate(zip(group, acts, strict=True)):
            shown = Observation(content(100 + i, 6)) if i else Observation((Text("again"),))
            trajectory.turns.append(turn(act, shown if i < 2 else None))
            if i < 2:
                trajectory.turns.append(turn(policy.act([trajectory.context(1)], sampling=sampling, seeds=[i])[0][0]))
        found.append(group)
    return found


def test_log_probability_of_an_ordered_choice():
    """Scores log 1, log 2, log 3, log 4; third, then first:  3/10, then 1 of what is left, 1 + 2 + 4 = 7."""
    scores = torch.tensor([[1.0, 2, 3, 4]]).log()
    index = torch.tensor([[2, 0]])
    found = PlackettLuce().conditional(scores, index).exp()[0]
    torch.testing.assert_close(found, torch.tensor([[0.1, 0.2, 0.3, 0.4], [1 / 7, 2 / 7, 0, 4 / 7]]))
    independent = WithReplacement().conditional(scores, index).exp()[0]
    torch.testing.assert_close(independent, torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 2))


def test_entropy_is_that_of_each_pick_given_those_before():
    """Three equal scores, two picks: log 3, then log 2."""
    policy = build(count=2, features=4)
    for parameter in policy.parameters():
        parameter.data.zero_()
    acts = policy.act([Context(prompt(0, 3))], n=2, sampling=Sampling(), seeds=[1, 2])[0]
    start = prompt(0, 3)
    batch = pack([[Trajectory(start, [turn(act)]) for act in acts]])
    found = policy.log_prob(batch, Need(entropy=True)).entropy
    torch.testing.assert_close(found, torch.tensor([[math.log(3), math.log(2)]] * 2, dtype=torch.float64))


def loop_probability(scores, index, temperature, replace):
    """Plackett and Luce's product in plain Python numbers, one term a pick."""
    left = {i: math.exp(s / temperature) for i, s in enumerate(scores)}
    logs = []
    for pick in index:
        logs.append(math.log(left[pick] / sum(left.values())))
        if not replace:
            del left[pick]
    return logs


def test_log_prob_is_the_product_of_the_picks_in_float64(choice):
    policy = build(choice=choice)
    batch = pack(groups(policy))
    found = policy.log_prob(batch).logp
    expected = torch.zeros_like(found)
    for i, trajectory in enumerate(batch.trajectories):
        logs = []
        for k, one in enumerate(trajectory.turns):
            scores = policy._scores([policy._shown(trajectory.context(k))])[0].tolist()
            logs += loop_probability(scores, one.record.index.tolist(), 0.7, isinstance(choice, WithReplacement))
        expected[i, : len(logs)] = torch.tensor(logs, dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_ratio_is_one_before_the_first_update(choice):
    policy = TinySelector(**{**vars(SPEC), "choice": choice}).build(CPU, seed=1)
    batch = pack(groups(policy))
    out = policy.log_prob(batch)
    assert bool(batch.mask.any())
    torch.testing.assert_close((out.logp - batch.old_logp).exp(), torch.ones(batch.mask.shape), atol=1e-6, rtol=0)
    assert bool((out.logp[~batch.mask] == 0).all())


def test_gradient_is_that_of_finite_differences(choice):
    policy = build(choice=choice)
    batch = pack(groups(policy))
    weight = torch.randn(batch.mask.shape, dtype=torch.float64, generator=torch_generator(1))

    def value():
        return (weight * policy.log_prob(batch).logp).sum()

    value().backward()
    bias, step = policy.hidden.bias, 1e-5
    with torch.no_grad():
        bias[2] += step
        above = value()
        bias[2] -= 2 * step
        below = value()
    assert float(bias.grad[2]) == pytest.approx(float((above - below) / (2 * step)), rel=1e-6)


def test_draws_come_as_often_as_the_exact_probabilities_say(choice):
    """All 12 ordered pairs of 4 things (16 with replacement): within 4 standard errors of 20,000 draws each."""
    scores = torch.tensor([0.0, 0.5, 1.0, -1.0])
    n = 20_000
    noise = -torch.empty(n, 2, 4).exponential_(generator=torch_generator(3)).log()
    drawn = choice.draw(scores.expand(n, -1), noise).tolist()
    replace = isinstance(choice, WithReplacement)
    pairs = itertools.product(range(4), repeat=2) if replace else itertools.permutations(range(4), 2)
    total = 0.0
    for pair in pairs:
        p = math.exp(sum(loop_probability(scores.tolist(), pair, 1.0, replace)))
        often = sum(tuple(one) == pair for one in drawn) / n
        assert abs(often - p) < 4 * math.sqrt(p * (1 - p) / n)
        total += p
    assert total == pytest.approx(1)


def test_each_sample_has_its_own_seed(choice):
    """Also those of other prompts beside it do not matter."""
    policy = build(choice=choice)
    contexts = [Context(prompt(0, 5)), Context(prompt(1, 7))]
    together = policy.act(contexts, n=2, sampling=Sampling(), seeds=[1, 2, 3, 1])
    alone = policy.act(contexts[:1], n=2, sampling=Sampling(), seeds=[1, 2])[0]
    assert [a.record.index.tolist() for a in together[0]] == [a.record.index.tolist() for a in alone]
    many = policy.act(contexts[:1], n=20, sampling=Sampling(temperature=9.0), seeds=range(20))[0]
    assert len({tuple(act.record.index.tolist()) for act in many}) > 5


def test_shorter_contexts_never_yield_rows_that_are_not_there(choice):
    policy = build(choice=choice)
    acts = policy.act([Context(prompt(0, 3)), Context(prompt(1, 40))], n=30, sampling=Sampling(), seeds=range(60))
    assert max(int(act.record.index.max()) for act in acts[0]) < 3
    assert all(bool(act.logp.isfinite().all()) for some in acts for act in some)


def test_greedy_choices_are_the_best_rows_in_order_and_not_trained(choice):
    policy = build(choice=choice)
    context = Context(prompt(0, 7))
    act = policy.act([context], sampling=Sampling(deterministic=True), seeds=[0])[0][0]
    scores = policy._scores([policy._shown(context)])[0]
    assert act.record.index.tolist() == scores.argsort(descending=True)[:3].tolist()
    assert not bool(act.mask.any())
    assert chosen_of(act.output, 7).tolist() == act.record.index.tolist()
    (one,) = act.output
    assert (one.name, one.values.shape, one.values.dtype) == ("chosen", (3, 1), np.float32)


def test_exact_kl_is_zero_to_itself_and_the_sum_over_alternatives_to_another(choice):
    policy = build(choice=choice)
    other = frozen_copy(policy)
    other.out.weight.data *= 0.3
    batch = pack(groups(policy))
    out = policy.log_prob(batch, Need(kl_to=frozen_copy(policy)))
    torch.testing.assert_close(out.kl, torch.zeros_like(out.logp), atol=1e-12, rtol=0)
    kl = policy.log_prob(batch, Need(kl_to=other)).kl.detach()
    trajectory = batch.trajectories[0]
    mine, theirs = (
        [s / 0.7 for s in each._scores([each._shown(trajectory.context(0))])[0].tolist()] for each in (policy, other)
    )
    gone = [] if isinstance(choice, WithReplacement) else trajectory.turns[0].record.index[:1].tolist()
    left = [i for i in range(5) if i not in gone]
    p = [math.exp(mine[i]) / sum(math.exp(mine[j]) for j in left) for i in left]
    q = [math.exp(theirs[i]) / sum(math.exp(theirs[j]) for j in left) for i in left]
    assert float(kl[0, 1]) == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)), abs=1e-10)
    with pytest.raises(CapabilityError, match="same choice"):
        rest = next(each for each in CHOICES.values() if each != choice)
        policy.log_prob(batch, Need(kl_to=build(choice=rest)))


def test_masked_actions_are_zero_and_an_empty_mask_is_no_error():
    policy = build()
    batch = pack(groups(policy, Sampling(deterministic=True)))
    out = policy.log_prob(batch, Need(entropy=True, kl_to=frozen_copy(policy)))
    for table in (out.logp, out.entropy, out.kl):
        assert table.shape == batch.mask.shape and not bool(table.any())


def test_encoded_choices_are_scored_as_if_drawn():
    policy = build()
    context = Context(prompt(0, 5))
    output = (Array("chosen", np.array([[4], [0], [2]], np.int64)),)
    (act,) = policy.encode([context], [output])
    assert act.record.index.tolist() == [4, 0, 2] and bool(act.mask.all()) and not bool(act.logp.any())
    batch = pack([[Trajectory(context.prompt, [turn(act)])]])
    scores = policy._scores([policy._shown(context)])[0].tolist()
    assert policy.log_prob(batch).logp[0].tolist() == pytest.approx(loop_probability(scores, [4, 0, 2], 1.0, False))
    assert pickle.loads(pickle.dumps(act.record)).index.tolist() == [4, 0, 2]


@pytest.mark.parametrize(
    "values",
    [[[0.0], [1], [1]], [[0.0], [1], [5]], [[0.0], [1], [-1]], [[0.5], [1], [2]], [[math.nan], [1], [2]], [[0.0], [1]]],
)
def test_what_is_no_choice_cannot_be_encoded(values):
    with pytest.raises(DataError, match="task-0"):
        build().encode([Context(prompt(0, 5))], [(Array("chosen", np.array(values)),)])


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        ((Text("choose"),), "nothing to choose from"),
        ((Array("context", np.zeros((2, 4), np.float32)),), "N >= 3"),
        ((Array("context", np.zeros((5, 4), np.float32)),), "query"),
    ],
)
def test_contexts_that_do_not_fit_are_named(shown, message):
    with pytest.raises(DataError, match=message):
        build().act([Context(Prompt(Task("t", shown), shown))], sampling=Sampling(), seeds=[0])


def test_saved_policies_come_back(tmp_path):
    policy = SPEC.build(CPU, seed=4)
    policy.save_pretrained(tmp_path)
    batch = pack(groups(policy))
    assert torch.equal(TinySelector.load(tmp_path).log_prob(batch).logp, policy.log_prob(batch).logp)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        TinySelector.load(tmp_path)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="count"):
        TinySelector(count=0)
    with pytest.raises(ConfigError, match="top_p"):
        build().act([Context(prompt(0, 5))], sampling=Sampling(top_p=0.5), seeds=[0])
