"""A recipe that trains in a second: find the bright corner of a picture, with a table of logits instead of a network.

The policy sees which corner of the last picture is brightest and says two tokens, a word and a box. Importing the
module registers the recipe ``corners``.

Mechanism: rewards are compared within the group.

Without it: the return itself is the advantage.

Differences: everything; it exists for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from saccade.advantages.group import GroupNorm
from saccade.core.batch import Batch
from saccade.core.content import Content, Image, Text, frames_of, text_of
from saccade.core.environment import Split, Tasks
from saccade.core.errors import DataError
from saccade.core.metric import Metric, Models, Row
from saccade.core.policy import Act, LogProbs, Need, Policy, PolicySpec, Sampling
from saccade.core.random import numpy_generator, torch_generator
from saccade.core.reward import SampleReward, Score
from saccade.core.trajectory import Context, Group, Task, Trajectory
from saccade.envs.single import SingleTurn
from saccade.feeds.demonstrations import Demonstrations
from saccade.objectives.policy_gradient import PPOClip
from saccade.objectives.regression import NLL
from saccade.objectives.regularise import KLToReference
from saccade.recipe import Ablation, Evaluation, Recipe, Size, Stage, Train, recipe

SIDE = 16
CORNERS = ((0, 0, 8, 8), (8, 0, 16, 8), (0, 8, 8, 16), (8, 8, 16, 16))
TOKENS = ("here", "<b>perhaps</b>", *(f"<box>{' '.join(map(str, box))}</box>" for box in CORNERS))
LENGTH = 2


@dataclass(frozen=True)
class Table(PolicySpec):
    spread: float = 0.1
    """Standard deviation of the initial logits."""
    note: str | None = None

    def build(self, device: torch.device, seed: int = 0) -> TablePolicy:
        return TablePolicy(self, seed).to(device)


class TablePolicy(Policy):
    provides = frozenset({"entropy", "kl", "distribution"})

    def __init__(self, spec: Table, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        noise = torch.randn(len(CORNERS), LENGTH, len(TOKENS), generator=torch_generator(seed))
        self.logits = nn.Parameter(spec.spread * noise)

    @torch.no_grad()
    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        rows = self.logits[[corner_of(context) for context in contexts]].log_softmax(-1).repeat_interleave(n, 0)
        acts: list[Act] = []
        for row, seed in zip(rows, seeds, strict=True):
            ids = row.argmax(-1)
            if not sampling.deterministic:
                ids = torch.multinomial(row.exp(), 1, generator=torch_generator(seed))[:, 0]
            mask = torch.full_like(ids, not sampling.deterministic, dtype=torch.bool)
            acts.append(Act(said(ids), ids, row.gather(1, ids[:, None])[:, 0], mask, torch.zeros_like(ids)))
        return [acts[i * n : (i + 1) * n] for i in range(len(contexts))]

    def log_prob(self, batch: Batch, need: Need = Need()) -> LogProbs:
        width = batch.mask.shape[1]
        state = torch.zeros(len(batch), width, dtype=torch.int64)
        place, ids = state.clone(), state.clone()
        for i, trajectory in enumerate(batch.trajectories):
            for k in range(trajectory.num_turns):
                span = slice(k * LENGTH, (k + 1) * LENGTH)
                state[i, span], place[i, span] = corner_of(trajectory.context(k)), torch.arange(LENGTH)
                ids[i, span] = trajectory.turns[k].record
        rows = self.logits.log_softmax(-1)[state, place]
        out = LogProbs(torch.where(batch.mask, rows.gather(2, ids[:, :, None])[:, :, 0], 0.0))
        if need.entropy:
            out.entropy = torch.where(batch.mask, -(rows.exp() * rows).sum(-1), 0.0)
        if need.kl_to is not None:
            assert isinstance(need.kl_to, TablePolicy)
            other = need.kl_to.logits.detach().log_softmax(-1)[state, place]
            out.kl = torch.where(batch.mask, (rows.exp() * (rows - other)).sum(-1), 0.0)
        if need.distribution:
            out.distribution = rows.detach()
        return out

    def encode(self, contexts: Sequence[Context], outputs: Sequence[Content]) -> list[Act]:
        acts: list[Act] = []
        for output in outputs:
            words = text_of(output).split("\n")
            if len(words) != LENGTH or not set(words) <= set(TOKENS):
                raise DataError(f"{text_of(output)!r} cannot be said with the tokens {TOKENS}")
            ids = torch.tensor([TOKENS.index(word) for word in words])
            acts.append(
                Act(output, ids, torch.zeros(LENGTH), torch.ones(LENGTH, dtype=torch.bool), torch.zeros_like(ids))
            )
        return acts

    def size(self, trajectory: Trajectory) -> int:
        return trajectory.num_actions

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.state_dict(), folder / "table.pt")


def said(ids: torch.Tensor) -> Content:
    return (Text("\n".join(TOKENS[i] for i in ids.tolist())),)


def corner_of(context: Context) -> int:
    """Which corner of the last picture the policy saw is brightest."""
    seen = [context.prompt.content, *(turn.observation.content for turn in context.turns if turn.observation)]
    picture = [frame for content in seen for frame in frames_of(content)][-1]
    return int(np.argmax([picture[y1:y2, x1:x2].mean() for x1, y1, x2, y2 in CORNERS]))


@dataclass(frozen=True)
class Corners(Tasks):
    count: int = 16
    first: int = 0
    clutter: int = 60
    """Brightest grey of the background."""

    def __len__(self) -> int:
        return self.count

    def task(self, index: int) -> Task:
        name = f"corners-{self.first + index}"
        random = numpy_generator(0, name)
        pixels = random.integers(0, self.clutter, (SIDE, SIDE, 3), dtype=np.uint8)
        corner = (self.first + index) % len(CORNERS)
        x1, y1, x2, y2 = CORNERS[corner]
        pixels[y1:y2, x1:x2] = (240, 200, 80)
        gold = ((Text(f"here\n{TOKENS[2 + corner]}"),),)
        prompt = (Image(pixels), Text("Which corner is <bright>?"))
        return Task(name, prompt, target={"box": CORNERS[corner], "kind": "locate"}, gold=gold)

    def split(self, name: Split) -> Corners:
        return self if name == "train" else replace(self, first=self.first + 1000)


@dataclass(frozen=True, kw_only=True)
class RightBox(SampleReward):
    """1 if the box is the target's."""

    accepted: tuple[str, ...] = ("box",)
    """Tags that a box may stand in."""

    def score(self, trajectory: Trajectory) -> Score:
        words = " ".join(map(str, trajectory.task.target["box"]))
        right = any(f"<{tag}>{words}</{tag}>" in trajectory.text for tag in self.accepted)
        return Score(float(right), note="the corner" if right else "another corner")


@dataclass(frozen=True, kw_only=True)
class Sure(SampleReward):
    """1 if nothing is said twice."""

    def score(self, trajectory: Trajectory) -> float:
        return float(trajectory.text.startswith("here\n"))


@dataclass(frozen=True)
class Paid(Metric):
    """Mean of a reward."""

    reward: str = "box"

    def rows(self, groups: Sequence[Group], models: Models) -> list[Any]:
        return [Row(t.task.id, t.scores[self.reward].total or 0.0) for group in groups for t in group]


@recipe(paper="no paper", pillar="vlm")
def corners(size: Size = "tiny", model: str = "", shift: int = 0) -> Recipe:
    return Recipe(
        policy=Table(note=model or None),
        env=SingleTurn(Corners(first=4 * shift)),
        rewards={"box": RightBox(), "sure": Sure(weight=0.0)},
        advantage=GroupNorm(),
        average="action",
        objective={"pg": PPOClip(), "kl": KLToReference(coef=0.01)},
        train=Train(steps=12, groups=4, group_size=4, lr=0.3),
        stages={
            "warm_up": Stage(feed=Demonstrations(), objective={"nll": NLL()}, train=Train(steps=2, groups=2, lr=1e-3))
        },
        evaluation=Evaluation(limit=12, metrics={"box": Paid(), "sure": Paid("sure")}),
        ablation=Ablation(
            "box", {"advantage": {"class": "saccade.advantages.temporal.DiscountedReturn"}}, seeds=(0, 1)
        ),
    )
