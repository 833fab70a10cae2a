"""The formula table: every advantage and objective beside a loop in plain floats, written from the paper's equation.

The formula tests, the gradient checks and the property suite all run over these two tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from saccade.advantages.group import GreedyBaseline, GroupCentre, GroupNorm, LeaveOneOut, PerReward
from saccade.advantages.history import TaskNorm
from saccade.advantages.shaping import BatchWhiten, Clip, Difficulty, Extremes, KLInReward, LengthPenalty
from saccade.advantages.steps import Mixed, StepNorm
from saccade.advantages.temporal import GAE, DiscountedReturn, TurnReturn
from saccade.core.advantage import Advantage
from saccade.core.batch import Average, Batch
from saccade.core.kl import K2, K3
from saccade.core.objective import Objective, View
from saccade.core.policy import LogProbs
from saccade.core.schedule import Linear
from saccade.objectives.matching import NFT, PositiveNFT
from saccade.objectives.policy_gradient import (
    CISPO,
    GSPO,
    ClampedRatio,
    DualClip,
    PPOClip,
    Reinforce,
    TruncatedImportance,
)
from saccade.objectives.preference import DPO, IPO, KTO, ORPO, RPO, BatchKTO, Hinge, RelativeDPO, SimPO
from saccade.objectives.regression import NLL, Filtered, RewardWeighted
from saccade.objectives.regularise import EntropyBonus, KLBetweenViews, KLToReference, ValueLoss

# --- advantages -------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One trajectory in plain Python: only its real actions."""

    group: int
    mask: list[bool]
    turn: list[int]
    rewards: dict[str, list[float]]
    weight: dict[str, float]
    old: list[float]
    ref: list[float]
    value: list[float]
    final: float
    truncated: bool
    scored: bool

    @property
    def length(self) -> int:
        return len(self.mask)

    @property
    def compared(self) -> bool:
        return self.scored and any(self.mask)

    @property
    def reward(self) -> list[float]:
        return [sum(self.weight[k] * r[t] for k, r in self.rewards.items()) for t in range(self.length)]

    @property
    def outcome(self) -> float:
        return sum(self.reward)


def rows(batch: Batch) -> list[Row]:
    found = []
    for i, trajectory in enumerate(batch.trajectories):
        length = sum(len(turn.logp) for turn in trajectory.turns)

        def cut(x, i=i, length=length) -> Any:
            return [0.0] * length if x is None else x[i, :length].tolist()

        found.append(
            Row(
                group=int(batch.group[i]),
                mask=cut(batch.mask),
                turn=[k for k, turn in enumerate(trajectory.turns) for _ in turn.logp],
                rewards={name: cut(stream) for name, stream in batch.rewards.items()},
                weight=dict(batch.reward_weight),
                old=cut(batch.old_logp),
                ref=cut(batch.ref_logp),
                value=cut(batch.value),
                final=0.0 if batch.final_value is None else float(batch.final_value[i]),
                truncated=trajectory.stop == "truncated",
                scored=bool(batch.scored[i]),
            )
        )
    return found


Table = list[list[float]]


def mean(x: list[float]) -> float:
    return sum(x) / len(x) if x else 0.0


def std(x: list[float], ddof: int) -> float:
    if len(x) <= ddof:
        return 0.0
    return math.sqrt(sum((v - mean(x)) ** 2 for v in x) / (len(x) - ddof))


def peers(row: Row, table: list[Row]) -> list[Row]:
    return [other for other in table if other.compared and other.group == row.group]


def spread(row: Row, value: float) -> list[float]:
    return [value if kept else 0.0 for kept in row.mask]


def group_norm(table: list[Row], eps: float, ddof: int, batch_scale: bool) -> Table:
    made = []
    for row in table:
        near = [other.outcome for other in peers(row, table)]
        scale = [other.outcome for other in table if other.compared] if batch_scale else near
        made.append(spread(row, (row.outcome - mean(near)) / (std(scale, ddof) + eps)))
    return made


def group_centre(table: list[Row]) -> Table:
    return [spread(row, row.outcome - mean([other.outcome for other in peers(row, table)])) for row in table]


def leave_one_out(table: list[Row]) -> Table:
    made = []
    for row in table:
        others = [other.outcome for other in peers(row, table) if other is not row]
        made.append(spread(row, row.outcome - mean(others) if others else 0.0))
    return made


def per_reward(table: list[Row], eps: float, ddof: int) -> Table:
    totals = []
    for row in table:
        total = 0.0
        for name in row.rewards:
            near = [sum(other.rewards[name]) for other in peers(row, table)]
            total += row.weight[name] * (sum(row.rewards[name]) - mean(near)) / (std(near, ddof) + eps)
        totals.append(total)
    kept = [total for total, row in zip(totals, table, strict=True) if row.compared]
    scale = std(kept, ddof) + eps
    return [spread(row, (total - mean(kept)) / scale) for total, row in zip(totals, table, strict=True)]


def greedy_baseline(table: list[Row]) -> Table:
    made = []
    for row in table:
        greedy = [o.outcome for o in table if o.group == row.group and o.scored and not any(o.mask)]
        to_go = [sum(row.reward[t:]) - mean(greedy) for t in range(row.length)]
        made.append([x if kept and greedy else 0.0 for x, kept in zip(to_go, row.mask, strict=True)])
    return made


def steps(row: Row) -> list[tuple[int, float]]:
    """The trainable actions, each with what is paid from it up to the next one."""
    acts = [t for t in range(row.length) if row.mask[t]]
    ends = [*acts[1:], row.length][: len(acts)]
    return [(t, sum(row.reward[t:end])) for t, end in zip(acts, ends, strict=True)]


def gae(table: list[Row], discount: float, lam: float) -> Table:
    """The definition: A_t = sum over l of (discount lam)^l delta_{t+l}."""
    made = []
    for row in table:
        path = steps(row)
        values = [row.value[t] for t, _ in path] + [row.final if row.truncated else 0.0]
        deltas = [paid + discount * values[j + 1] - values[j] for j, (_, paid) in enumerate(path)]
        line = [0.0] * row.length
        for j, (t, _) in enumerate(path):
            line[t] = sum((discount * lam) ** (m - j) * deltas[m] for m in range(j, len(path)))
        made.append(line)
    return made


def discounted_return(table: list[Row], discount: float) -> Table:
    made = []
    for row in table:
        path, line = steps(row), [0.0] * row.length
        for j, (t, _) in enumerate(path):
            line[t] = sum(discount ** (m - j) * paid for m, (_, paid) in enumerate(path) if m >= j)
        made.append(line)
    return made


def turn_return(table: list[Row], discount: float, baseline: bool) -> Table:
    def value(row: Row, k: int) -> float:
        return sum(discount ** (row.turn[t] - k) * row.reward[t] for t in range(row.length) if row.turn[t] >= k)

    made = []
    for row in table:
        line = [0.0] * row.length
        for t in range(row.length):
            if row.mask[t]:
                k = row.turn[t]
                near = [value(other, k) for other in peers(row, table) if k in other.turn]
                line[t] = value(row, k) - (mean(near) if baseline else 0.0)
        made.append(line)
    return made


def whitened(table: list[Row], inner: Table, eps: float) -> Table:
    kept = [a for row, line in zip(table, inner, strict=True) for a, m in zip(line, row.mask, strict=True) if m]
    scale = math.sqrt(std(kept, 1) ** 2 + eps)
    return [[(a - mean(kept)) / scale if m else 0.0 for a, m in zip(line, row.mask, strict=True)]
            for row, line in zip(table, inner, strict=True)]  # fmt: skip


def overlong(table: list[Row], limit: int, buffer: int, factor: float) -> list[Row]:
    for row in table:
        n = row.length
        pay = 0.0 if n <= limit - buffer else (limit - buffer - n) / buffer if n <= limit else -1.0
        row.rewards["overlong"] = [0.0] * (n - 1) + [pay]
        row.weight["overlong"] = factor
    return table


def task_norm(table: list[Row], least: int) -> Table:
    """Without any history: the group's own statistics where it is large enough, else the batch's."""
    made = []
    for row in table:
        near = [other.outcome for other in peers(row, table)]
        seen = near if len(near) >= least else [other.outcome for other in table if other.compared]
        made.append(spread(row, (row.outcome - mean(seen)) / (std(seen, 0) + 1e-6)))
    return made


def extremes(table: list[Row], inner: Table, high: float, low: float) -> Table:
    def value(row: Row, line: list[float]) -> float:
        return mean([a for a, kept in zip(line, row.mask, strict=True) if kept])

    made = []
    for row, line in zip(table, inner, strict=True):
        near = [value(o, l) for o, l in zip(table, inner, strict=True) if o.compared and o.group == row.group]
        a = value(row, line)
        kept = row.compared and ((a == max(near) and a >= high) or (a == min(near) and a < low))
        made.append(line if kept else [0.0] * row.length)
    return made


def difficulty(table: list[Row], inner: Table) -> Table:
    def weight(x: float) -> float:
        return 0.4 + (1.5 - 0.4) / (1 + math.exp(10 * (x - 0.75)))

    made = []
    for row, line in zip(table, inner, strict=True):
        rate = min(1.0, max(0.0, mean([other.outcome for other in peers(row, table)])))
        made.append([a * weight(rate) if a > 0 else a * weight(1 - rate) for a in line])
    return made


def kl_cost(table: list[Row], coef: float, cost: Callable[[float], float]) -> list[Row]:
    for row in table:
        line = zip(row.old, row.ref, row.mask, strict=True)
        row.rewards["kl"] = [cost(old - ref) if kept else 0.0 for old, ref, kept in line]
        row.weight["kl"] = -coef
    return table


def step_norm(table: list[Row], of: str, eps: float, ddof: int) -> Table:
    """For each action, the pay of its turn against that of the compared members that acted in this turn."""

    def value(row: Row, k: int) -> float:
        kept = [r for r, turn in zip(row.reward, row.turn, strict=True) if (turn >= k if of == "return" else turn == k)]
        return float(sum(kept))

    made = []
    for row in table:
        line = []
        for kept, k in zip(row.mask, row.turn, strict=True):
            near = [value(other, k) for other in peers(row, table) if k in other.turn]
            line.append((value(row, k) - mean(near)) / (std(near, ddof) + eps) if kept else 0.0)
        made.append(line)
    return made


def mixed(a: float, step: Table, b: float, trajectory: Table) -> Table:
    return [[a * s + b * t for s, t in zip(*lines, strict=True)] for lines in zip(step, trajectory, strict=True)]


ADVANTAGES: dict[str, tuple[Advantage, Callable[[list[Row]], Table]]] = {
    "GroupNorm": (GroupNorm(), lambda table: group_norm(table, 1e-4, 0, False)),
    "GroupNorm sample std": (GroupNorm(eps=1e-6, ddof=1), lambda table: group_norm(table, 1e-6, 1, False)),
    "GroupNorm batch": (GroupNorm(scale="batch", ddof=1), lambda table: group_norm(table, 1e-4, 1, True)),
    "GroupCentre": (GroupCentre(), group_centre),
    "LeaveOneOut": (LeaveOneOut(), leave_one_out),
    "PerReward": (PerReward(), lambda table: per_reward(table, 1e-4, 1)),
    "GreedyBaseline": (GreedyBaseline(), greedy_baseline),
    "GAE": (GAE(discount=0.9, lam=0.8), lambda table: gae(table, 0.9, 0.8)),
    "DiscountedReturn": (DiscountedReturn(0.9), lambda table: discounted_return(table, 0.9)),
    "TurnReturn": (TurnReturn(discount=0.9), lambda table: turn_return(table, 0.9, False)),
    "TurnReturn group": (TurnReturn(discount=0.9, baseline="group"), lambda table: turn_return(table, 0.9, True)),
    "REINFORCE++": (
        BatchWhiten(DiscountedReturn(1.0)),
        lambda table: whitened(table, discounted_return(table, 1.0), 1e-8),
    ),
    "REINFORCE++ baseline": (BatchWhiten(GroupCentre()), lambda table: whitened(table, group_centre(table), 1e-8)),
    "Clip": (
        Clip(GroupCentre(), 0.5),
        lambda table: [[min(0.5, max(-0.5, a)) for a in line] for line in group_centre(table)],
    ),
    "TaskNorm": (TaskNorm(size=4, least=3), lambda table: task_norm(table, 3)),
    "Extremes": (Extremes(GroupCentre(), 0.2, -0.1), lambda table: extremes(table, group_centre(table), 0.2, -0.1)),
    "StepNorm": (StepNorm(), lambda table: step_norm(table, "reward", 1e-4, 1)),
    "TGRPO": (
        Mixed(),
        lambda table: mixed(0.3, step_norm(table, "reward", 1e-4, 1), 0.7, group_norm(table, 1e-4, 1, False)),
    ),
    "LengthPenalty": (
        LengthPenalty(GroupCentre(), limit=5, buffer=3, factor=0.5),
        lambda table: group_centre(overlong(table, 5, 3, 0.5)),
    ),
    "Difficulty": (Difficulty(GroupCentre()), lambda table: difficulty(table, group_centre(table))),
    "KLInReward": (
        KLInReward(DiscountedReturn(1.0), coef=0.2),
        lambda table: discounted_return(kl_cost(table, 0.2, lambda d: d), 1.0),
    ),
    "KLInReward k2": (
        KLInReward(GroupCentre(), coef=0.2, estimator=K2()),
        lambda table: group_centre(kl_cost(table, 0.2, lambda d: d * d / 2)),
    ),
    "KLInReward k3": (
        KLInReward(GroupCentre(), coef=0.2, estimator=K3()),
        lambda table: group_centre(kl_cost(table, 0.2, lambda d: math.exp(-d) - 1 + d)),
    ),
}

# A constant paid to every trajectory changes nothing, and equal rewards give exactly zero.
GROUP_RELATIVE = [
    "GroupNorm", "GroupNorm sample std", "GroupNorm batch", "GroupCentre", "LeaveOneOut", "PerReward",
    "REINFORCE++ baseline", "Clip", "Extremes",
]  # fmt: skip

# --- objectives -------------------------------------------------------------------------------------------------------


@dataclass
class Line:
    """One trajectory in plain Python: only its trainable actions."""

    group: int
    outcome: float
    weight: list[float]
    logp: list[float]
    old: list[float]
    ref: list[float]
    advantage: list[float]
    value: list[float]
    old_value: list[float]
    target: list[float]
    entropy: list[float]
    kl: list[float]
    view: list[float]
    actor: list[float]

    @property
    def n(self) -> int:
        return len(self.logp)

    @property
    def gain(self) -> float:
        return sum(a - b for a, b in zip(self.logp, self.ref, strict=True))

    @property
    def mean_logp(self) -> float:
        return sum(self.logp) / self.n


def lines(batch: Batch, out: LogProbs, average: Average) -> list[Line]:
    """Trained trajectories with the weights of the averaging rule, from its definition."""
    table = rows(batch)
    targets = gae(table, 0.9, 0.8)
    trained = [i for i, row in enumerate(table) if any(row.mask)]
    actions = {i: sum(table[i].mask) for i in trained}
    in_group: dict[int, int] = {}
    for i in trained:
        in_group[table[i].group] = in_group.get(table[i].group, 0) + actions[i]
    found = []
    for i in trained:
        row = table[i]
        weight = {
            "action": 1 / sum(actions.values()),
            "trajectory": 1 / actions[i] / len(trained),
            "group": 1 / in_group[row.group] / len(in_group),
        }.get(str(average))
        if weight is None:
            assert isinstance(average, int)
            weight = 1 / (average * len(trained))
        actor = [float(x) for turn in batch.trajectories[i].turns for x in turn.logp]

        def kept(values, mask=row.mask):
            return [float(v) for v, m in zip(values, mask, strict=False) if m]

        def given(x, i=i, width=len(actor)):
            return [0.0] * width if x is None else x[i].tolist()

        target = [a + v for a, v in zip(targets[i], row.value, strict=True)]
        found.append(
            Line(
                group=row.group,
                outcome=row.outcome,
                weight=[weight] * actions[i],
                logp=kept(given(out.logp)),
                old=kept(row.old),
                ref=kept(row.ref),
                advantage=kept(given(batch.advantage)),
                value=kept(given(out.value)),
                old_value=kept(row.value),
                target=kept(target),
                entropy=kept(given(out.entropy)),
                kl=kept(given(out.kl)),
                view=kept(given(out.views["view"].logp)),
                actor=kept(actor),
            )
        )
    return found


def clip(x: float, low: float, high: float) -> float:
    return max(low, min(high, x))


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def over_actions(term: Callable[[Line, int], float]) -> Callable[[list[Line]], float]:
    return lambda table: sum(row.weight[t] * term(row, t) for row in table for t in range(row.n))


def over_pairs(term: Callable[[Line, Line], float]) -> Callable[[list[Line]], float]:
    """Mean over groups of a term of the best and the worst member; nothing where they are equal."""

    def loss(table: list[Line]) -> float:
        groups = {row.group for row in table}
        total = 0.0
        for g in groups:
            near = [row for row in table if row.group == g]
            w, l = max(near, key=lambda row: row.outcome), min(near, key=lambda row: row.outcome)
            total += term(w, l) if w.outcome > l.outcome else 0.0
        return total / len(groups)

    return loss


def ppo(row: Line, t: int, low: float, high: float) -> float:
    r, a = math.exp(row.logp[t] - row.old[t]), row.advantage[t]
    return min(r * a, clip(r, 1 - low, 1 + high) * a)


def clamped(row: Line, t: int) -> float:
    return -clip(math.exp(row.logp[t] - row.old[t]), 0.9, 1.2) * row.advantage[t]


def nft(row: Line, t: int, b: float, negative: bool = True) -> float:
    """The two branches of DiffusionNFT with a limit of 2, self-normalised."""
    q = clip(row.advantage[t] / 2 / 2 + 0.5, 0, 1)
    e, old, d = -row.logp[t], -row.ref[t], row.kl[t]
    plus = (1 - b) * old + b * e - b * (1 - b) * d
    minus = (1 + b) * old - b * e + b * (1 + b) * d
    scale = [max(math.sqrt(max(x, 0.0)), 1e-5) for x in (plus, minus)]
    return 2 * (q * plus / scale[0] / b + negative * (1 - q) * minus / scale[1] / b)


def dual(row: Line, t: int) -> float:
    s, a = ppo(row, t, 0.2, 0.2), row.advantage[t]
    return max(s, 1.5 * a) if a < 0 else s


def gspo(table: list[Line]) -> float:
    total = 0.0
    for row in table:
        s = math.exp(sum(a - b for a, b in zip(row.logp, row.old, strict=True)) / row.n)
        a = sum(row.advantage) / row.n
        total -= min(s * a, clip(s, 1 - 0.05, 1 + 0.1) * a)
    return total / len(table)


def cispo(row: Line, t: int) -> float:
    return -clip(math.exp(row.logp[t] - row.old[t]), 0.7, 1.2) * row.advantage[t] * row.logp[t]


def truncated_importance(row: Line, t: int) -> float:
    r, a = math.exp(row.logp[t] - row.old[t]), row.advantage[t]
    a *= min(math.exp(row.old[t] - row.actor[t]), 1.05)
    return -min(r * a, clip(r, 0.8, 1.2) * a)


def value_loss(row: Line, t: int) -> float:
    v, old, r = row.value[t], row.old_value[t], row.target[t]
    return 0.5 * 0.5 * max((v - r) ** 2, (clip(v, old - 0.2, old + 0.2) - r) ** 2)


def odds(p: float) -> float:
    return math.log(math.exp(p) / (1 - math.exp(p)))


def orpo(w: Line, l: Line) -> float:
    return -w.mean_logp - 0.3 * math.log(sigma(odds(w.mean_logp) - odds(l.mean_logp)))


def dpo(w: Line, l: Line) -> float:
    z = 0.3 * (w.gain - l.gain)
    return -0.9 * math.log(sigma(z)) - 0.1 * math.log(sigma(-z))


def kto_origin(row: Line, table: list[Line]) -> float:
    near = [other.gain for other in table if other.group == row.group]
    return max(0.0, sum(near) / len(near)) if len(near) > 1 else 0.0


def kto(table: list[Line], origins: list[float] | None = None) -> float:
    origins = origins or [kto_origin(row, table) for row in table]
    total = 0.0
    for row, z in zip(table, origins, strict=True):
        good = row.outcome > 0.25
        total += 1.2 * (1 - sigma(0.3 * (row.gain - z))) if good else 0.8 * (1 - sigma(0.3 * (z - row.gain)))
    return total / len(table)


def batch_kto(table: list[Line]) -> float:
    origin = max(0.0, sum(row.gain / row.n for row in table) / len(table)) if table else 0.0
    total = 0.0
    for row in table:
        y, w = (1, 1.2) if row.outcome > 0.25 else (-1, 0.8)
        total += w * (1 - sigma(y * 0.3 * (row.gain / row.n - origin)))
    return total / len(table)


def relative_dpo(table: list[Line]) -> float:
    """All prompts of these tables have the same words: every loser counts alike."""
    ends = []
    for g in {row.group for row in table}:
        near = [row for row in table if row.group == g]
        w, l = max(near, key=lambda row: row.outcome), min(near, key=lambda row: row.outcome)
        if w.outcome > l.outcome:
            ends.append((w, l))
    groups = len({row.group for row in table})
    return sum(-math.log(sigma(0.3 * (w.gain - l.gain))) / len(ends) for w, _ in ends for _, l in ends) / groups


@dataclass(frozen=True)
class Blur(View):
    """Stands for any view: the tests give the evaluations themselves."""

    def __call__(self, prompt):
        return prompt


OBJECTIVES: dict[str, tuple[Objective, Callable[[list[Line]], float]]] = {
    "Reinforce": (Reinforce(), over_actions(lambda row, t: -row.advantage[t] * row.logp[t])),
    "PPOClip": (PPOClip(low=0.2, high=0.28), over_actions(lambda row, t: -ppo(row, t, 0.2, 0.28))),
    "ClampedRatio": (ClampedRatio(low=0.1, high=0.2), over_actions(clamped)),
    "DualClip": (DualClip(c=1.5), over_actions(lambda row, t: -dual(row, t))),
    "GSPO": (GSPO(low=0.05, high=0.1), gspo),
    "CISPO": (CISPO(low=0.3, high=0.2), over_actions(cispo)),
    "TruncatedImportance": (TruncatedImportance(PPOClip(), cap=1.05), over_actions(truncated_importance)),
    "KLToReference k1": (
        KLToReference(coef=0.3, estimator="k1"),
        over_actions(lambda row, t: 0.3 * (row.logp[t] - row.ref[t])),
    ),
    "KLToReference k2": (
        KLToReference(coef=0.3, estimator="k2"),
        over_actions(lambda row, t: 0.3 * (row.logp[t] - row.ref[t]) ** 2 / 2),
    ),
    "KLToReference k3": (
        KLToReference(coef=0.3),
        over_actions(lambda row, t: 0.3 * (math.exp(row.ref[t] - row.logp[t]) - 1 + row.logp[t] - row.ref[t])),
    ),
    "KLToReference exact": (
        KLToReference(coef=0.3, estimator="exact", coef_schedule=Linear(start=0.5, end=0.0)),
        over_actions(lambda row, t: 0.15 * row.kl[t]),
    ),
    "KLBetweenViews": (
        KLBetweenViews(Blur(), coef=-0.2),
        over_actions(lambda row, t: -0.2 * (math.exp(row.view[t] - row.logp[t]) - 1 + row.logp[t] - row.view[t])),
    ),
    "EntropyBonus": (EntropyBonus(coef=0.3), over_actions(lambda row, t: -0.3 * row.entropy[t])),
    "ValueLoss": (ValueLoss(GAE(discount=0.9, lam=0.8), clip=0.2, coef=0.5), over_actions(value_loss)),
    "NLL": (NLL(coef=0.5), over_actions(lambda row, t: -0.5 * row.logp[t])),
    "RewardWeighted": (
        RewardWeighted(beta=0.5, cap=3.0),
        over_actions(lambda row, t: -min(math.exp(row.advantage[t] / 0.5), 3.0) * row.logp[t]),
    ),
    "Filtered": (Filtered(0.3), over_actions(lambda row, t: -row.logp[t] if row.advantage[t] > 0.3 else 0.0)),
    "DPO": (DPO(beta=0.3, smoothing=0.1), over_pairs(dpo)),
    "RelativeDPO": (RelativeDPO(beta=0.3), relative_dpo),
    "IPO": (IPO(beta=0.3), over_pairs(lambda w, l: (w.gain / w.n - l.gain / l.n - 1 / 0.6) ** 2)),
    "Hinge": (Hinge(beta=0.9), over_pairs(lambda w, l: max(0.0, 1 - 0.9 * (w.gain - l.gain)))),
    "RPO": (
        RPO(beta=0.3, alpha=0.7),
        over_pairs(lambda w, l: -math.log(sigma(0.3 * (w.gain - l.gain))) - 0.7 * w.mean_logp),
    ),
    "SimPO": (
        SimPO(beta=2.0, margin=0.4),
        over_pairs(lambda w, l: -math.log(sigma(2.0 * (w.mean_logp - l.mean_logp) - 0.4))),
    ),
    "ORPO": (ORPO(beta=0.3), over_pairs(orpo)),
    "KTO": (KTO(beta=0.3, desirable=1.2, undesirable=0.8, threshold=0.25), kto),
    "BatchKTO": (BatchKTO(beta=0.3, desirable=1.2, undesirable=0.8, threshold=0.25), batch_kto),
    "NFT": (NFT(beta=1.0, limit=2.0), over_actions(lambda row, t: nft(row, t, 1.0))),
    "NFT small beta": (NFT(beta=0.1, limit=2.0), over_actions(lambda row, t: nft(row, t, 0.1))),
    "PositiveNFT": (PositiveNFT(beta=0.5, limit=2.0), over_actions(lambda row, t: nft(row, t, 0.5, False))),
}
