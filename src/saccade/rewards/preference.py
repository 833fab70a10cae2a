"""Learned preference models: a scorer of (caption, picture), trained on pairs that simulated annotators compared.

The annotators' taste is a reward, usually a verifier plus a bias of style, so that what the model stands for is known
and over-optimising it can be measured: the verifier is the gold reward, the model its proxy.

Training: Bradley-Terry with soft labels and ties. For scores s of a pair and the annotators' p = (p_1, p_2),

    ``loss = sum_b w_b sum_i p_i (log p_i - log softmax_i(s)) / sum_b w_b``

where w is 1, or 1 / (pairs with the same caption) as in PickScore (arXiv:2305.01569). With hard labels it is
ImageReward's ``-log sigmoid(s_w - s_l)`` (arXiv:2304.05977), whose standardisation of the scores is used too.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.core.content import Image, images_of, text_of
from saccade.core.environment import Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.random import fold_in, numpy_generator, torch_generator
from saccade.core.reward import DifferentiableReward, Reward, Score
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.rewards.combine import scores
from saccade.rewards.learned import Comparator
from saccade.rewards.networks import chunks, coordinates, fitted, planes, trained


@dataclass(frozen=True)
class Weighting(ABC):
    """How much each pair counts."""

    @abstractmethod
    def __call__(self, captions: Sequence[str]) -> Float[Tensor, "B"]:
        """One weight for each pair, given their captions."""


@dataclass(frozen=True)
class PerPair(Weighting):
    """Every pair counts the same:  w_b = 1."""

    def __call__(self, captions: Sequence[str]) -> Float[Tensor, "B"]:
        return torch.ones(len(captions))


@dataclass(frozen=True)
class PerPrompt(Weighting):
    """Every caption counts the same (PickScore, arXiv:2305.01569):  w_b = 1 / (pairs with the caption of b)."""

    def __call__(self, captions: Sequence[str]) -> Float[Tensor, "B"]:
        often = Counter(captions)
        return torch.tensor([1 / often[caption] for caption in captions])


def preference_loss(
    first: Float[Tensor, "B"], second: Float[Tensor, "B"], label: Float[Tensor, "B"], weight: Float[Tensor, "B"]
) -> Float[Tensor, ""]:
    """Weighted mean KL divergence of the labels from the Bradley-Terry model's probabilities; 0 is its least value.

    Args:
        first: scores of the first pictures.
        second: scores of the second ones.
        label: probability that the first is better, in [0, 1]; 0.5 is a tie.
        weight: of the pairs, > 0.
    """
    chance = F.binary_cross_entropy_with_logits(first - second, label, reduction="none")
    # p log p is 0 at p = 0; xlogy says so.
    entropy = -torch.xlogy(label, label) - torch.xlogy(1 - label, 1 - label)
    return (weight * (chance - entropy)).sum() / weight.sum()


@dataclass(frozen=True, eq=False)
class Pairs:
    """Compared pictures."""

    captions: list[str]
    first: list[Image]
    second: list[Image]
    difference: Float[Tensor, "B"]
    """Taste of the first minus taste of the second."""
    label: Float[Tensor, "B"]
    """Share of the annotators who prefer the first; a tie counts half."""


@dataclass(frozen=True, kw_only=True)
class PreferenceModel:
    """A small scorer of (caption, picture) and the simulated comparisons it learns from.

    Candidates are gold pictures of the caption and of others, the more alike the likelier, with pieces of other
    pictures pasted in, brightened, darkened and with noise. An annotator prefers a to b with probability
    ``sigmoid((s_a - s_b) / temperature)`` where s is the taste, and calls it a tie if ``|s_a - s_b| <= tie``.

    Trained once and kept in the cache folder; a minute on one core with the defaults.
    """

    tasks: Tasks
    """Text to image tasks with gold pictures; the model learns from these only."""
    taste: Reward
    """What annotators look for: a reward of single trajectories, a bias of style added (``rewards.combine.Sum``)."""
    pairs: int = 8192
    temperature: float = 0.2
    tie: float = 0.05
    votes: int = 5
    """Annotators a pair; more of them give softer labels."""
    weighting: Weighting = PerPair()
    focus: float = 0.0
    """Share of the pairs that have one and the same caption: real collections are as uneven as that."""
    side: int = 16
    """Pixels a side at which pictures are looked at."""
    channels: int = 24
    steps: int = 1500
    batch: int = 64
    lr: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("pairs", "votes", "side", "channels", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("temperature", "lr"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"model.{name} must be > 0, got {getattr(self, name)}")
        if not self.tie >= 0:
            raise ConfigError(f"model.tie must be >= 0, got {self.tie}")
        if not 0 <= self.focus <= 1:
            raise ConfigError(f"model.focus must be in [0, 1], got {self.focus}")
        if self.taste.scope != "trajectory":
            raise ConfigError(f"model.taste must look at single trajectories, got {type(self.taste).__name__}")

    def network(self) -> Scorer:
        """The trained scorer, frozen.

        Raises:
            DataError: a task has no gold picture, or the taste cannot score one.
        """
        return _network(self)

    @torch.no_grad()
    def scores(self, captions: Sequence[str], images: Sequence[Image]) -> Float[Tensor, "N"]:
        """Scores of pictures of any size, standardised over the training pictures."""
        network = self.network()
        rows = list(zip(captions, images, strict=True))
        found = [
            network(planes([image for _, image in part], self.side), [caption for caption, _ in part])
            for part in chunks(rows)
        ]
        return torch.cat(found) if found else torch.zeros(0)

    def compared(self, tasks: Tasks, n: int, seed: int = 0) -> Pairs:
        """Pairs of pictures, n of them, for the captions of these tasks, as the annotators would compare them."""
        return _compared(self, tasks, n, fold_in(seed, "pairs"))

    def accuracy(self, tasks: Tasks, n: int = 512, seed: int = 1) -> tuple[float, float]:
        """Share of pairs that are no tie in which the model agrees with the taste, and in which one annotator does.

        The second number is what a model can reach on the annotators' own votes at best, were they asked one by one.
        """
        pairs = self.compared(tasks, n, seed)
        clear = pairs.difference.abs() > self.tie
        margin = self.scores(pairs.captions, pairs.first) - self.scores(pairs.captions, pairs.second)
        agrees = (margin * pairs.difference > 0)[clear].float().mean().item()
        ceiling = torch.sigmoid(pairs.difference.abs() / self.temperature)[clear].mean().item()
        return agrees, ceiling


class Scorer(nn.Module):
    """RGB in [0, 1] and captions to scores.

    An embedding of the words and their places scales and shifts the channels of four convolutions (FiLM,
    arXiv:1709.07871); what they find is averaged, and its maximum taken, over the picture.
    """

    STRIDES = (1, 2, 1, 1)
    EMBEDDING, HIDDEN = 64, 128
    mean: Tensor
    std: Tensor
    place: Tensor

    def __init__(self, side: int, channels: int, words: Sequence[str], longest: int) -> None:
        super().__init__()
        self.index = {word: i + 1 for i, word in enumerate(words)}
        self.side, self.longest = side, longest
        self.words = nn.Parameter(0.5 * torch.randn(longest, len(words) + 1, self.EMBEDDING))
        self.caption = nn.Sequential(
            nn.Linear(self.EMBEDDING, self.HIDDEN), nn.SiLU(), nn.Linear(self.HIDDEN, self.HIDDEN), nn.SiLU()
        )
        widths = (5, channels, 2 * channels, 2 * channels, 2 * channels)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=stride, padding=1)
            for before, after, stride in zip(widths, widths[1:], self.STRIDES, strict=False)
        )
        self.modulation = nn.ModuleList(nn.Linear(self.HIDDEN, 2 * width) for width in widths[1:])
        self.middle = nn.Linear(2 * widths[-1] + self.HIDDEN, self.HIDDEN)
        self.last = nn.Linear(self.HIDDEN, 1)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("place", coordinates(side), persistent=False)

    def forward(self, images: Float[Tensor, "N 3 H W"], captions: Sequence[str]) -> Float[Tensor, "N"]:
        caption = self.caption(self.words[torch.arange(self.longest), self.ids(captions)].sum(1))
        x = torch.cat([2 * fitted(images, self.side) - 1, self.place.expand(len(images), -1, -1, -1)], 1)
        for convolution, modulation in zip(self.convolutions, self.modulation, strict=True):
            scale, shift = modulation(caption)[:, :, None, None].chunk(2, 1)
            x = F.silu(convolution(x) * (1 + scale) + shift)
        hidden = F.silu(self.middle(torch.cat([x.mean((2, 3)), x.amax((2, 3)), caption], 1)))
        return (self.last(hidden)[:, 0] - self.mean) / self.std

    def ids(self, captions: Sequence[str]) -> Int[Tensor, "N L"]:
        """Words by place; 0 is an unknown word and padding."""
        ids = torch.zeros(len(captions), self.longest, dtype=torch.int64)
        for row, caption in zip(ids, captions, strict=True):
            for place, word in enumerate(caption.split()[: self.longest]):
                row[place] = self.index.get(word, 0)
        return ids


@lru_cache(maxsize=8)
def _network(spec: PreferenceModel) -> Scorer:
    captions = [_caption(task).split() for task in _pool(spec.tasks)[0]]
    words = sorted({word for caption in captions for word in caption})
    longest = max(map(len, captions))

    def train(network: Scorer) -> None:
        pairs = spec.compared(spec.tasks, spec.pairs, fold_in(spec.seed, "train"))
        first, second = planes(pairs.first, spec.side), planes(pairs.second, spec.side)
        weight = spec.weighting(pairs.captions)
        generator = torch_generator(fold_in(spec.seed, "preference"))
        optimiser = torch.optim.AdamW(network.parameters(), lr=spec.lr, weight_decay=0.05)
        for step in range(spec.steps):
            for group in optimiser.param_groups:
                group["lr"] = spec.lr * min(1.0, (step + 1) / 50, 2 * (1 - step / spec.steps))
            rows = torch.randint(len(weight), (spec.batch,), generator=generator)
            named = [pairs.captions[i] for i in rows.tolist()]
            both = network(torch.cat([first[rows], second[rows]]), named + named)
            a, b = both.chunk(2)
            loss = preference_loss(a, b, pairs.label[rows], weight[rows])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
        with torch.no_grad():
            own = torch.cat(
                [network(first[i : i + 256], pairs.captions[i : i + 256]) for i in range(0, len(first), 256)]
            )
            network.mean.copy_(own.mean())
            network.std.copy_(own.std().clamp(min=1e-6))

    return trained(spec, spec.seed, lambda: Scorer(spec.side, spec.channels, words, longest), train)


POOL = 2048
"""Most tasks whose gold pictures are candidates."""
NEAR = 12
"""Captions among which the one most like the asked one is chosen."""


def _caption(task: Task) -> str:
    return text_of(task.prompt)


@lru_cache(maxsize=4)
def _pool(tasks: Tasks) -> tuple[list[Task], list[Image]]:
    pool = tasks[: min(POOL, len(tasks))]
    pictures: list[Image] = []
    for task in pool:
        shown = images_of(task.gold[-1]) if task.gold else []
        if not shown:
            raise DataError(f"task {task.id!r}: a preference model learns from gold pictures, this task has none")
        pictures.append(shown[-1])
    if not any(map(_caption, pool)):
        raise DataError(f"{type(tasks).__name__} has no captions: a preference model scores pictures for captions")
    return pool, pictures


def _compared(spec: PreferenceModel, tasks: Tasks, n: int, seed: int) -> Pairs:
    pool, pictures = _pool(tasks)
    by_caption: dict[str, list[int]] = {}
    for i, task in enumerate(pool):
        by_caption.setdefault(_caption(task), []).append(i)
    random = numpy_generator(seed, "candidates")
    words = [set(_caption(task).split()) for task in pool]

    def candidate(asked: int) -> Image:
        if random.random() < 0.4:
            same = by_caption[_caption(pool[asked])]
            base = same[random.integers(len(same))]
        else:
            others = random.integers(len(pool), size=NEAR)
            base = max(others, key=lambda i: len(words[i] & words[asked]))
        return _distorted(random, pictures[base], pictures[random.integers(len(pool))])

    asked = [0 if random.random() < spec.focus else int(random.integers(len(pool))) for _ in range(n)]
    first, second = [candidate(i) for i in asked], [candidate(i) for i in asked]
    shown = [_shown(pool[i], image) for side in (first, second) for i, image in zip(asked, side, strict=True)]
    totals = [score.total for score in scores(spec.taste, shown)]
    if any(total is None for total in totals):
        raise DataError(f"{type(spec.taste).__name__} cannot score pictures of {type(tasks).__name__}")
    taste = torch.tensor([total or 0.0 for total in totals], dtype=torch.float64)
    difference = taste[:n] - taste[n:]
    chance = torch.sigmoid(difference / spec.temperature).numpy()
    votes = torch.from_numpy(random.binomial(spec.votes, chance) / spec.votes)
    label = torch.where(difference.abs() <= spec.tie, 0.5, votes).float()
    return Pairs([_caption(pool[i]) for i in asked], first, second, difference.float(), label)


def _shown(task: Task, image: Image) -> Trajectory:
    return Trajectory(Prompt(task, task.prompt), [forced_turn((image,), None, 1)])


def _distorted(random: np.random.Generator, image: Image, other: Image) -> Image:
    """The picture as an unfinished generator might have made it."""
    pixels = image.pixels.astype(np.float64)
    height, width = pixels.shape[:2]
    if random.random() < 0.3 and other.pixels.shape == pixels.shape:
        y1, x1 = random.integers(height), random.integers(width)
        y2, x2 = y1 + random.integers(1, height + 1), x1 + random.integers(1, width + 1)
        pixels[y1:y2, x1:x2] = other.pixels[y1:y2, x1:x2]
    if random.random() < 0.5:
        pixels = pixels * random.uniform(0.6, 1.4) + random.uniform(-10, 40)
    if random.random() < 0.5:
        pixels += random.normal(0, random.uniform(0, 40), pixels.shape)
    return Image(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))


@dataclass(frozen=True, kw_only=True)
class Preference(DifferentiableReward):
    """Score of a preference model, zero mean and unit variance over its training pictures.

    An output without a picture is unscored.
    """

    model: PreferenceModel

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        shown = [(i, one.image) for i, one in enumerate(trajectories) if one.image is not None]
        captions = [text_of(trajectories[i].prompt.content) for i, _ in shown]
        values = self.model.scores(captions, [image for _, image in shown]).tolist()
        found = [Score(None, note="no image")] * len(trajectories)
        for (i, _), value in zip(shown, values, strict=True):
            found[i] = Score(value)
        return found

    def differentiable(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[Prompt]) -> Float[Tensor, "N"]:
        return self.model.network()(images, [text_of(prompt.content) for prompt in prompts])


@dataclass(frozen=True)
class BradleyTerry(Comparator):
    """Probability that the first is better under a reward's scores:  sigmoid((R_first - R_second) / temperature).

    Without a score a trajectory loses against one that has one; two of them are a tie.
    """

    reward: Reward
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"comparator.temperature must be > 0, got {self.temperature}")
        if self.reward.scope != "trajectory":
            raise ConfigError(f"comparator.reward must look at single trajectories, got {type(self.reward).__name__}")

    def compare(self, pairs: Sequence[tuple[Trajectory, Trajectory]]) -> list[float]:
        # Everyone meets everyone in a group: each trajectory is scored once.
        met = {id(one): one for pair in pairs for one in pair}
        found = dict(zip(met, (score.total for score in scores(self.reward, list(met.values()))), strict=True))
        return [self._chance(found[id(a)], found[id(b)]) for a, b in pairs]

    def _chance(self, a: float | None, b: float | None) -> float:
        if a is None or b is None:
            return 0.5 + 0.5 * ((a is not None) - (b is not None))
        return 0.5 * (1 + math.tanh((a - b) / (2 * self.temperature)))


@dataclass(frozen=True)
class HardVote(Comparator):
    """Another judge's verdict, spoken as 1, 0 or, within ``margin`` of a half, 0.5.

    In a ``PairwiseJudge`` this gives the win rate of Pref-GRPO (arXiv:2508.20751): how close a comparison was does not
    matter, so small differences of score cannot be blown up by the group's standard deviation.
    """

    judge: Comparator
    margin: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 0.5:
            raise ConfigError(f"comparator.margin must be in [0, 0.5), got {self.margin}")

    def compare(self, pairs: Sequence[tuple[Trajectory, Trajectory]]) -> list[float]:
        return [0.5 if abs(p - 0.5) <= self.margin else float(p > 0.5) for p in self.judge.compare(pairs)]
