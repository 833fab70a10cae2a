"""Prompts over a whole optimiser step: read once for the rollout and the gradient, however the batch is cut."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from contracts.families import FAMILIES
from letters import LetterGame
from policies.counting import prefix_passes
from saccade.core.batch import pack
from saccade.core.content import Image, Text
from saccade.core.environment import Split, Tasks
from saccade.core.policy import LocalActor, Sampling
from saccade.core.reference import Initial
from saccade.core.reward import SampleReward
from saccade.core.trajectory import Context, Observation, Prompt, Task, Trajectory, Turn
from saccade.feeds.on_policy import NonUniform, OnPolicy
from saccade.learn.loop import Run, fresh_state, train
from saccade.learn.step import microbatches, optimise
from saccade.objectives.policy_gradient import GSPO, PPOClip
from saccade.objectives.regularise import EntropyBonus, KLToReference
from saccade.policies.token.tiny import TinyVLM
from saccade.recipe import Recipe, Train

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Pictures(Tasks):
    """Noise, and questions of different lengths."""

    def __len__(self) -> int:
        return 8

    def task(self, index: int) -> Task:
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        return Task(f"task-{index}", (Image(pixels), Text(" ".join(["what digit"] * (1 + index % 3)))), target="1")

    def split(self, name: Split) -> Tasks:
        return self


@dataclass(frozen=True, kw_only=True)
class EvenTokens(SampleReward):
    """Share of even tokens."""

    def score(self, trajectory) -> float:
        ids = torch.cat([turn.record.ids for turn in trajectory.turns])
        return float((ids % 2 == 0).double().mean())


def recipe(turns=1, **settings) -> Recipe:
    options = {"steps": 3, "groups": 3, "group_size": 4, "lr": 1e-3, **settings}
    return Recipe(
        policy=TinyVLM(width=32, layers=2, heads=2, side=32, bins=8),
        env=LetterGame(Pictures(), max_turns=turns),
        rewards={"even": EvenTokens()},
        average="action",
        objective={"pg": PPOClip()},
        feed=OnPolicy(sampling=Sampling(max_actions=5)),
        train=Train(**options),
    )


class PassesEachStep:
    """What the list of passes grew by in each step."""

    def __init__(self, passes):
        self.passes, self.counts = passes, []

    def start(self, state, recipe):
        return

    def step(self, state, batch, record, seconds):
        self.counts.append(len(self.passes) - sum(self.counts))

    def finish(self, state):
        return


def trained(chosen, actor=None):
    """The policy after training in float64, and the passes over prompts in each step."""
    policy = chosen.policy.build(CPU, 0).double()
    with prefix_passes(policy) as passes:
        seen = PassesEachStep(passes)
        train(chosen, Run(observers=[seen]), policy, None if actor is None else actor(policy))
    assert policy.book.open is None and policy.book.states == []
    return policy, seen.counts


def farthest(policy, other):
    """The largest difference between two weights."""
    pairs = zip(policy.parameters(), other.parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({}, [1, 1, 1]),
        ({"epochs": 2}, [2, 2, 2]),
        ({"epochs": 3}, [3, 3, 3]),
        # The optimiser batches of a pass over the data need two of the rollout's three prompts, and one.
        ({"minibatches": 2}, [3, 3, 3]),
        ({"minibatches": 2, "epochs": 2}, [5, 5, 5]),
    ],
    ids=str,
)
def test_prompts_are_read_once_for_the_rollout_and_its_first_gradient(turns, settings, counts):
    assert trained(recipe(turns, **settings))[1] == counts


def test_recomputed_log_probs_and_micro_batches_read_no_prompt_again():
    assert trained(recipe(old_logp="recompute"))[1] == [1, 1, 1]
    # The prompts have at most 3 * 11 positions: the batch is cut, but the graph of the rollout is within the budget.
    assert trained(recipe(micro_size=40))[1] == [1, 1, 1]
    # Here it is not: numbers alone are kept, and the gradient reads a prompt with the first micro-batch that needs it.
    assert all(2 <= count <= 4 for count in trained(recipe(micro_size=20))[1])


@pytest.mark.parametrize("turns", [1, 3])
def test_training_with_the_rollouts_graph_equals_training_without(turns):
    chosen = recipe(turns, steps=6, epochs=2)
    (reused, counts), (anew, more) = trained(chosen), trained(chosen, LocalActor)
    assert counts == [2] * 6 and more == [3] * 6
    assert farthest(reused, chosen.policy.build(CPU, 0).double()) > 1e-2, "something was learned"
    assert farthest(reused, anew) < 1e-9


def test_training_on_shared_prefixes_equals_training_on_the_plain_path():
    chosen = recipe(2, steps=4)
    plain = replace(chosen, policy=replace(chosen.policy, prefix="plain"))
    assert farthest(trained(chosen)[0], trained(plain)[0]) < 1e-9


def test_groups_that_the_feed_drops_only_cost_the_reuse():
    """A graph of which some prompts are not trained on is not used: the rollouts', then one pass for the gradient."""
    strict = OnPolicy(sampling=Sampling(max_actions=2), select=NonUniform())
    chosen = replace(recipe(groups=4, group_size=2), feed=strict)
    policy, counts = trained(chosen)
    assert set(counts) <= {1, 2} and 2 in counts
    assert farthest(policy, trained(chosen, LocalActor)[0]) < 1e-9


# --- micro-batches --------------------------------------------------------------------------------------------------


def rolled_out(policy, keep=None):
    """Groups of 3, 1 and 2 trajectories of two turns, the first answered with a picture."""
    groups = []
    for p, size in enumerate((3, 1, 2)):
        task = Pictures()[p]
        prompt = Prompt(task, task.prompt)
        group = [Trajectory(prompt) for _ in range(size)]
        for i, trajectory in enumerate(group):
            for k in range(2):
                seeds = [100 * p + 10 * k + i]
                act = policy.act([trajectory.context(k)], sampling=Sampling(max_actions=4), seeds=seeds)[0][0]
                shown = None if k else Observation((Text("no"), Pictures()[p + i + 1].prompt[0]), keep)
                trajectory.turns.append(
                    Turn(act.output, act.record, act.logp, act.mask, act.segment, observation=shown)
                )
        groups.append(group)
    batch = pack(groups)
    noise = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(0))
    batch.advantage = noise.masked_fill(~batch.mask, 0.0)
    return batch


OBJECTIVES = {
    "ppo": {"pg": PPOClip()},
    "gspo, kl and entropy": {
        "pg": GSPO(),
        "kl": KLToReference(coef=0.3, estimator="exact"),
        "entropy": EntropyBonus(coef=0.1),
    },
}


def gradient_and_passes(chosen, policy, batch):
    """What ``optimise`` leaves in ``grad``, and the passes over prompts with gradient."""
    state = fresh_state(chosen, policy, CPU)
    if state.reference is not None:
        with torch.no_grad():
            for parameter in state.reference.parameters():
                parameter.mul_(1.05)
    with prefix_passes(policy) as passes:
        optimise(chosen, state, batch)
    return [p.grad for p in policy.parameters() if p.requires_grad], passes


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("keep", [None, 0])
@pytest.mark.parametrize("name", ["tiny", "Qwen2.5-VL", "SmolVLM, adapters"])
def test_rows_split_over_micro_batches_give_the_gradient_of_one_batch(name, keep, objective):
    """With ``micro_size`` 1 every trajectory is a micro-batch, with the largest one most hold several."""
    batch = rolled_out(FAMILIES[name].build().double(), keep)
    base = replace(recipe(max_grad_norm=1e9, reference=Initial()), objective=objective)
    policy = FAMILIES[name].build().double()
    largest = max(map(policy.size, batch.trajectories)) + max(map(policy.shared_size, batch.prompts))
    expected, passes = gradient_and_passes(base, policy, batch)
    assert passes == [3]
    for size, micros in ((1, 6), (largest, None)):
        chosen = replace(base, train=replace(base.train, micro_size=size))
        policy = FAMILIES[name].build().double()
        pieces = list(microbatches(batch, policy, size, split_groups=True))
        assert 1 < len(pieces) <= 6 and micros in (None, len(pieces))
        found, passes = gradient_and_passes(chosen, policy, batch)
        assert sum(passes) == 3, "each prompt once"
        for ours, theirs in zip(found, expected, strict=True):
            if theirs is None:
                assert ours is None
            else:
                assert float((ours - theirs).norm()) <= 1e-9 * (1e-3 + float(theirs.norm()))


def test_micro_batches_count_a_prompt_once_for_its_rows_and_again_where_it_is_split():
    """Prompts of S positions and rows of 3: a group of four costs S + 12, and two halves of S + 6 each."""
    policy = TinyVLM(width=16, layers=1, heads=2, side=32, bins=8).build(CPU)
    groups = []
    for p in (0, 3):
        prompt = Prompt(Pictures()[p], Pictures()[p].prompt)
        act = policy.encode([Context(prompt)], [(Text("red blue"),)])[0]
        one = Turn(act.output, act.record, act.logp, act.mask, act.segment)
        groups.append([Trajectory(prompt, [one]) for _ in range(4)])
    batch = pack(groups)
    shared = policy.shared_size(batch.prompts[0])
    assert policy.shared_size(batch.prompts[1]) == shared

    def sizes(size, split):
        return [len(micro) for micro in microbatches(batch, policy, size, split_groups=split)]

    assert sizes(2 * shared + 24, True) == [8]
    assert sizes(2 * shared + 23, True) == [7, 1] and sizes(2 * shared + 23, False) == [4, 4]
    assert sizes(shared + 12, True) == [4, 4]
    assert sizes(shared + 6, True) == [2, 2, 2, 2] and sizes(shared + 6, False) == [4, 4]
    assert sizes(1, True) == [1] * 8
