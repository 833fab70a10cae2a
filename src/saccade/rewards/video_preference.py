"""Learned preference models of clips: several axes, and annotators who may say that two clips are the same.

After VideoReward (arXiv:2501.13918). Simulated annotators compare two clips of a prompt along each axis: what an axis
stands for is a reward, a measurement, so that the gold is known; their votes are noisy, and gaps below a threshold are
called ties. A network with one head an axis learns from the votes by a pair loss, for the margin d = s_1 - s_2:

- ``BradleyTerryTies``: ``P(1 > 2) = sigma(d - log theta)``, ``P(tie) = (theta^2 - 1) sigma(d - log theta) sigma(-d -
  log theta)``, so that ties pull scores together;
- ``BradleyTerryOnly``: ``P(1 > 2) = sigma(d)``, ties left out.

Heads of axes that are about the clip alone cannot see the prompt. Scores are standardised over the training clips;
mean and standard deviation are stored with the weights.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.core.content import Array, Video, text_of
from saccade.core.environment import Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.random import fold_in, numpy_generator, torch_generator
from saccade.core.reward import Reward, Score
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.rewards.combine import scores
from saccade.rewards.networks import chunks, coordinates, trained

_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class PairLoss(ABC):
    """Minus the log-probability of a verdict, given the margin of the scores."""

    @abstractmethod
    def __call__(self, margin: Float[Tensor, "*shape"], verdict: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The loss of each comparison.

        Args:
            margin: score of the first minus score of the second.
            verdict: 1: the first is better, -1: the second, 0: they are the same.
        """


@dataclass(frozen=True)
class BradleyTerryTies(PairLoss):
    """Rao and Kupper's model with ties.

    ``-log sigma(d - log theta)`` for a win, the same of -d for a loss, for a tie both together minus
    ``log(theta^2 - 1)``; the three probabilities add up to 1. At d = 0 a tie has ``(theta - 1) / (theta + 1)``.
    """

    theta: float = 5.0
    """How wide ties are; the paper's."""

    def __post_init__(self) -> None:
        if not self.theta > 1:
            raise ConfigError(f"loss.theta must be > 1, got {self.theta}")

    def __call__(self, margin: Float[Tensor, "*shape"], verdict: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        wide = math.log(self.theta)
        first, second = F.softplus(wide - margin), F.softplus(wide + margin)
        tie = first + second - math.log(self.theta**2 - 1)
        return torch.where(verdict > 0, first, torch.where(verdict < 0, second, tie))


@dataclass(frozen=True)
class BradleyTerryOnly(PairLoss):
    """``-log sigma(d)`` for a win, ``-log sigma(-d)`` for a loss; ties say nothing."""

    def __call__(self, margin: Float[Tensor, "*shape"], verdict: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.where(verdict == 0, 0.0, F.softplus(-margin * verdict))


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One thing that annotators look for."""

    gold: Reward
    """What it is: a reward of single trajectories."""
    tie: float
    """Gaps of gold below this are called ties, by everyone."""
    temperature: float
    """Of votes: the first is preferred with probability sigmoid(gap / temperature)."""
    told: bool = False
    """Whether the head sees the prompt."""

    def __post_init__(self) -> None:
        if self.gold.scope != "trajectory":
            raise ConfigError(f"axis.gold must look at single trajectories, got {type(self.gold).__name__}")
        if not self.tie >= 0 or not self.temperature > 0:
            raise ConfigError(f"axis needs tie >= 0 and temperature > 0, got {self.tie} and {self.temperature}")


@dataclass(frozen=True, eq=False)
class Votes:
    """Compared clips; K axes."""

    prompts: list[Prompt]
    first: list[Video]
    second: list[Video]
    gap: Float[Tensor, "B K"]
    """Gold of the first minus gold of the second."""
    verdict: Int[Tensor, "B K"]


@dataclass(frozen=True, kw_only=True)
class ClipPreferenceModel:
    """A small scorer of clips with one head an axis, and the simulated comparisons it learns from.

    Candidates are gold clips of the prompt and of others, with frames that jump, at other places or velocities, faded,
    blurred or noisy. Trained once and kept in the cache folder; some 20 seconds on one core with the defaults.
    """

    tasks: Tasks
    """Prompts with gold clips of one size; the model learns from these only."""
    axes: Mapping[str, Axis]
    loss: PairLoss = BradleyTerryTies()
    pairs: int = 8192
    channels: int = 24
    steps: int = 800
    batch: int = 64
    lr: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("pairs", "channels", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must be >= 1, got {getattr(self, name)}")
        if not self.lr > 0:
            raise ConfigError(f"model.lr must be > 0, got {self.lr}")
        if not self.axes:
            raise ConfigError("model.axes must name at least one axis")

    def network(self) -> ClipScorer:
        """The trained scorer, frozen.

        Raises:
            DataError: a task has no gold clip, or an axis cannot score one.
        """
        return _network(self)

    @torch.no_grad()
    def scores(self, prompts: Sequence[Prompt], clips: Sequence[Video]) -> Float[Tensor, "N K"]:
        """Standardised scores along each axis, in the order of ``axes``."""
        network, rows = self.network(), list(zip(prompts, clips, strict=True))
        found = [network(grey([clip for _, clip in part]), [prompt for prompt, _ in part]) for part in chunks(rows)]
        return torch.cat(found) if found else torch.zeros(0, len(self.axes))

    def compared(self, tasks: Tasks, n: int, seed: int = 0) -> Votes:
        """Pairs of clips, n of them, for prompts of these tasks, as the annotators would compare them."""
        return _compared(self, tasks, n, fold_in(seed, "pairs"))

    def accuracy(self, tasks: Tasks, n: int = 512, seed: int = 1) -> dict[str, tuple[float, float]]:
        """For each axis the share of pairs without ties in which the model agrees with the gold, and how wide ties are.

        The second number is the median of |margin| over ties, divided by that over the others.
        """
        votes = self.compared(tasks, n, seed)
        margin = self.scores(votes.prompts, votes.first) - self.scores(votes.prompts, votes.second)
        found: dict[str, tuple[float, float]] = {}
        for k, (name, axis) in enumerate(self.axes.items()):
            d, gap = margin[:, k], votes.gap[:, k]
            clear = gap.abs() > axis.tie
            spread = d[~clear].abs().median() / d[clear].abs().median()
            found[name] = (float((d * gap > 0)[clear].float().mean()), float(spread))
        return found


def grey(clips: Sequence[Video]) -> Float[Tensor, "N F H W"]:
    """Brightness of clips of one size, in [0, 1]."""
    return torch.from_numpy(np.stack([clip.frames for clip in clips])).float().mean(4) / 255


class ClipScorer(nn.Module):
    """Two convolutions over frames as channels, one over single frames, one head an axis.

    The first two say how things move; of the third, the mean and the peak over a frame say how it looks, which a sum
    over places does not. Heads that are told see the prompt besides.
    """

    HIDDEN = 96
    LOOKS = 8
    """Channels of the convolution over single frames."""
    mean: Tensor
    std: Tensor
    place: Tensor

    def __init__(
        self, size: tuple[int, int, int], channels: int, told: Sequence[bool], words: Sequence[str], numbers: int
    ) -> None:
        super().__init__()
        frames, height, width = size
        self.size, self.numbers = size, numbers
        self.index = {word: i for i, word in enumerate(words)}
        self.told = tuple(told)
        self.first = nn.Conv2d(frames + 2, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.alone = nn.Conv2d(1, self.LOOKS, 3, padding=1)
        flat = channels * -(-height // 2) * -(-width // 2) + 2 * frames * self.LOOKS
        self.blind = _scores(nn.Linear(flat, self.HIDDEN), len(told))
        self.seen = nn.Linear(flat, self.HIDDEN)
        self.asked = nn.Linear(len(words) + numbers, self.HIDDEN)
        self.match = _scores(nn.Identity(), len(told))
        self.register_buffer("mean", torch.zeros(len(told)))
        self.register_buffer("std", torch.ones(len(told)))
        line = coordinates(max(height, width))[:, :height, :width]
        self.register_buffer("place", line, persistent=False)

    def forward(self, clips: Float[Tensor, "N F H W"], prompts: Sequence[Prompt]) -> Float[Tensor, "N K"]:
        if tuple(clips.shape[1:]) != self.size:
            raise DataError(f"the preference model is for clips of size {self.size}, got {tuple(clips.shape[1:])}")
        x = 2 * clips - 1
        moves = torch.cat([x, self.place.expand(len(clips), -1, -1, -1)], 1)
        moves = F.silu(self.second(F.silu(self.first(moves)))).flatten(1)
        frames = F.silu(self.alone(x.flatten(0, 1)[:, None])).flatten(2)
        looks = torch.cat([frames.mean(2), frames.amax(2)], 1).reshape(len(clips), -1)
        seen = torch.cat([moves, looks], 1)
        blind, told = self.blind(seen), self.match(self.seen(seen) + self.asked(self._read(prompts)))
        return (torch.where(torch.tensor(self.told), told, blind) - self.mean) / self.std

    def _read(self, prompts: Sequence[Prompt]) -> Float[Tensor, "N D"]:
        rows = torch.zeros(len(prompts), len(self.index) + self.numbers)
        for row, prompt in zip(rows, prompts, strict=True):
            for word in _WORD.findall(text_of(prompt.content).lower()):
                if word in self.index:
                    row[self.index[word]] = 1
            values = _numbers(prompt)
            if len(values) != self.numbers:
                raise DataError(f"task {prompt.task.id!r}: prompt must hold {self.numbers} numbers, got {len(values)}")
            row[len(self.index) :] = torch.tensor(values)
        return rows


def _scores(first: nn.Module, axes: int) -> nn.Sequential:
    hidden = ClipScorer.HIDDEN
    return nn.Sequential(first, nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, axes))


def _numbers(prompt: Prompt) -> list[float]:
    return [float(x) for part in prompt.content if isinstance(part, Array) for x in np.ravel(part.values)]


@lru_cache(maxsize=8)
def _pool(tasks: Tasks) -> tuple[list[Prompt], list[Video]]:
    prompts = [Prompt(task, task.prompt) for task in tasks[: min(POOL, len(tasks))]]
    return prompts, [_gold(prompt.task) for prompt in prompts]


POOL = 2048
"""Most tasks whose gold clips are candidates."""


def _gold(task: Task) -> Video:
    clips = [part for part in (task.gold[-1] if task.gold else ()) if isinstance(part, Video)]
    if not clips:
        raise DataError(f"task {task.id!r}: a preference model learns from gold clips, this task has none")
    return clips[-1]


_NETWORKS: dict[str, ClipScorer] = {}


def _network(spec: ClipPreferenceModel) -> ClipScorer:
    # Axes are a mapping, which has no hash: descriptions are told apart by what they say.
    key = repr(spec)
    if key not in _NETWORKS:
        _NETWORKS[key] = _trained(spec)
    return _NETWORKS[key]


def _trained(spec: ClipPreferenceModel) -> ClipScorer:
    prompts, clips = _pool(spec.tasks)
    words = sorted({word for prompt in prompts for word in _WORD.findall(text_of(prompt.content).lower())})
    size = clips[0].frames.shape[:3]
    told = [axis.told for axis in spec.axes.values()]

    def train(network: ClipScorer) -> None:
        votes = spec.compared(spec.tasks, spec.pairs, fold_in(spec.seed, "train"))
        first, second = grey(votes.first), grey(votes.second)
        generator = torch_generator(fold_in(spec.seed, "preference"))
        optimiser = torch.optim.AdamW(network.parameters(), lr=spec.lr, weight_decay=0.05)
        for step in range(spec.steps):
            for group in optimiser.param_groups:
                group["lr"] = spec.lr * min(1.0, (step + 1) / 50, 2 * (1 - step / spec.steps))
            rows = torch.randint(len(first), (spec.batch,), generator=generator)
            asked = [votes.prompts[i] for i in rows.tolist()]
            a, b = network(torch.cat([first[rows], second[rows]]), asked + asked).chunk(2)
            loss = spec.loss(a - b, votes.verdict[rows]).sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
        with torch.no_grad():
            own = [network(first[i : i + 256], votes.prompts[i : i + 256]) for i in range(0, len(first), 256)]
            together = torch.cat(own)
            network.mean.copy_(together.mean(0))
            network.std.copy_(together.std(0).clamp(min=1e-6))

    def build() -> ClipScorer:
        return ClipScorer((size[0], size[1], size[2]), spec.channels, told, words, len(_numbers(prompts[0])))

    return trained(spec, spec.seed, build, train)


def _compared(spec: ClipPreferenceModel, tasks: Tasks, n: int, seed: int) -> Votes:
    prompts, clips = _pool(tasks)
    random = numpy_generator(seed, "candidates")
    asked = [int(i) for i in random.integers(len(prompts), size=n)]

    def candidate(i: int) -> Video:
        base = clips[i] if random.random() < 0.7 else clips[random.integers(len(clips))]
        return _distorted(random, base)

    first, second = [candidate(i) for i in asked], [candidate(i) for i in asked]
    gaps, verdicts = [], []
    for name, axis in spec.axes.items():
        sides = [[_shown(prompts[i], c) for i, c in zip(asked, side, strict=True)] for side in (first, second)]
        totals = [[score.total for score in scores(axis.gold, side)] for side in sides]
        if any(total is None for side in totals for total in side):
            raise DataError(f"axis {name!r}: {type(axis.gold).__name__} cannot score clips of {type(tasks).__name__}")
        gap = np.array(totals[0], np.float64) - np.array(totals[1], np.float64)
        chance = 1 / (1 + np.exp(-np.clip(gap / axis.temperature, -50, 50)))
        vote = np.where(random.random(n) < chance, 1, -1)
        gaps.append(gap)
        verdicts.append(np.where(np.abs(gap) <= axis.tie, 0, vote))
    gap, verdict = (torch.from_numpy(np.stack(rows, 1)) for rows in (gaps, verdicts))
    return Votes([prompts[i] for i in asked], first, second, gap.float(), verdict)


def _shown(prompt: Prompt, clip: Video) -> Trajectory:
    return Trajectory(prompt, [forced_turn((clip,), None, 1)])


def _distorted(random: np.random.Generator, clip: Video) -> Video:
    """The clip as an unfinished generator might have made it."""
    frames = clip.frames.astype(np.float64)
    places = np.zeros((len(frames), 2))
    if random.random() < 0.3:
        places += random.normal(0, 0.7, places.shape)
    if random.random() < 0.3:
        places += random.normal(0, 1.0, 2)
    if random.random() < 0.5:
        places += np.arange(len(frames))[:, None] * random.normal(0, 0.5, 2)
    if places.any():
        frames = _moved(frames, places)
    if random.random() < 0.3:
        near = sum(np.roll(frames, way, axis) for axis in (1, 2) for way in (-1, 1)) / 4
        share = random.uniform(0, 0.7)
        frames = (1 - share) * frames + share * near
    if random.random() < 0.3:
        frames = frames * random.uniform(0.6, 1.0)
    if random.random() < 0.3:
        frames = frames + random.normal(0, random.uniform(0, 25), (*frames.shape[:3], 1))
    return Video(np.rint(np.clip(frames, 0, 255)).astype(np.uint8), clip.fps)


def _moved(frames: Float[np.ndarray, "F H W 3"], places: Float[np.ndarray, "F 2"]) -> Float[np.ndarray, "F H W 3"]:
    """Each frame moved down and to the right by so many pixels, exactly, and around the edges."""
    turns = [np.fft.fftfreq(length) * places[:, [axis]] for axis, length in enumerate(frames.shape[1:3])]
    phase = np.exp(-2j * np.pi * (turns[0][:, :, None] + turns[1][:, None, :]))
    return np.fft.ifft2(np.fft.fft2(frames, axes=(1, 2)) * phase[..., None], axes=(1, 2)).real


@dataclass(frozen=True, kw_only=True)
class ClipPreference(Reward):
    """Weighted sum of a preference model's standardised axes. An output without a clip is unscored."""

    model: ClipPreferenceModel
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of the axes; 1 where an axis is not named."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.weights if name not in self.model.axes]
        if unknown:
            raise ConfigError(f"weights must name axes of the model ({', '.join(self.model.axes)}), got {unknown[0]!r}")

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        clips = [[part for part in one.output if isinstance(part, Video)][-1:] for one in trajectories]
        shown = [i for i, found in enumerate(clips) if found]
        values = self.model.scores([trajectories[i].prompt for i in shown], [clips[i][0] for i in shown])
        weight = torch.tensor([self.weights.get(name, 1.0) for name in self.model.axes])
        found = [Score(None, note="no clip")] * len(trajectories)
        for i, axes, total in zip(shown, values.tolist(), (values @ weight).tolist(), strict=True):
            note = ", ".join(f"{name} {value:.2f}" for name, value in zip(self.model.axes, axes, strict=True))
            found[i] = Score(total, note=note)
        return found
