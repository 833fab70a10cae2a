"""A classifier that is trained on a task set's own pictures, and rewards that ask it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.core.content import Image, images_of
from saccade.core.environment import Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.random import fold_in, torch_generator
from saccade.core.reward import DifferentiableReward, Reward, Score
from saccade.core.trajectory import Prompt, Task, Trajectory
from saccade.rewards.networks import chunks, coordinates, fitted, planes, trained


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A small convolutional network, trained on the gold pictures of a task set to tell ``Task.target["label"]``.

    Trained once, with noise and shifts, and kept in the cache folder; ten seconds on one core with the defaults.
    """

    tasks: Tasks
    """Its gold outputs hold one picture each."""
    limit: int = 8192
    """Most pictures learned from."""
    side: int = 16
    """Pixels a side at which pictures are looked at."""
    channels: int = 32
    steps: int = 600
    batch: int = 64
    lr: float = 2e-3
    noise: float = 0.1
    """Standard deviation of the noise added to training pictures, on the scale of [0, 1]."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("limit", "side", "channels", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"classifier.{name} must be >= 1, got {getattr(self, name)}")
        if not self.lr > 0 or not self.noise >= 0:
            raise ConfigError(f"classifier needs lr > 0 and noise >= 0, got {self.lr} and {self.noise}")

    @property
    def name(self) -> str:
        return f"classifier of {type(self.tasks).__name__}"

    def network(self) -> ClassifierNetwork:
        """The trained network, frozen.

        Raises:
            DataError: a task has no gold picture or no label.
        """
        return _network(self)

    def accuracy(self, tasks: Tasks) -> float:
        """Share of a task set's gold pictures that are told right."""
        images, labels = _examples(tasks, self.limit)
        return (self.logits(images).argmax(1) == labels).float().mean().item()

    @torch.no_grad()
    def logits(self, images: Sequence[Image]) -> Float[Tensor, "N C"]:
        """Logits of pictures of any size."""
        network = self.network()
        return torch.cat([network(planes(part, self.side)) for part in chunks(images)])

    @torch.no_grad()
    def features(self, images: Sequence[Image]) -> Float[Tensor, "N D"]:
        """What the last layer sees."""
        network = self.network()
        return torch.cat([network.features(planes(part, self.side)) for part in chunks(images)])


class ClassifierNetwork(nn.Module):
    """RGB in [0, 1] to logits: three convolutions, the last two halving the sides, and two linear layers."""

    place: Tensor

    def __init__(self, side: int, channels: int, classes: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(5, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * channels, 2 * channels, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
        )
        left = -(-side // 4)
        self.middle = nn.Linear(2 * channels * left * left, 64)
        self.last = nn.Linear(64, classes)
        self.register_buffer("place", coordinates(side), persistent=False)

    def features(self, images: Float[Tensor, "N 3 side side"]) -> Float[Tensor, "N 64"]:
        seen = torch.cat([2 * images - 1, self.place.expand(len(images), -1, -1, -1)], 1)
        return F.silu(self.middle(self.convolutions(seen)))

    def forward(self, images: Float[Tensor, "N 3 side side"]) -> Float[Tensor, "N C"]:
        return self.last(self.features(images))


@lru_cache(maxsize=8)
def _network(spec: Classifier) -> ClassifierNetwork:
    images, labels = _examples(spec.tasks, spec.limit)
    classes = int(labels.max()) + 1

    def train(network: ClassifierNetwork) -> None:
        pixels = planes(images, spec.side)
        generator = torch_generator(fold_in(spec.seed, "classifier"))
        optimiser = torch.optim.AdamW(network.parameters(), lr=spec.lr, weight_decay=0.01)
        for step in range(spec.steps):
            for group in optimiser.param_groups:
                group["lr"] = spec.lr * min(1.0, 2 * (1 - step / spec.steps))
            rows = torch.randint(len(pixels), (spec.batch,), generator=generator)
            shift = torch.randint(-1, 2, (2,), generator=generator).tolist()
            seen = pixels[rows].roll(shift, (2, 3))
            strength = spec.noise * torch.rand((), generator=generator)
            seen = (seen + strength * torch.randn(seen.shape, generator=generator)).clamp(0, 1)
            loss = F.cross_entropy(network(seen), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return trained(spec, spec.seed, lambda: ClassifierNetwork(spec.side, spec.channels, classes), train)


def _examples(tasks: Tasks, limit: int) -> tuple[list[Image], Tensor]:
    images: list[Image] = []
    labels: list[int] = []
    for task in tasks[: min(limit, len(tasks))]:
        shown = images_of(task.gold[-1]) if task.gold else []
        if not shown:
            raise DataError(f"task {task.id!r}: a classifier learns from gold pictures, this task has none")
        images.append(shown[-1])
        labels.append(label(task))
    if not images:
        raise DataError(f"{type(tasks).__name__} has no tasks: a classifier needs pictures to learn from")
    return images, torch.tensor(labels)


def label(task: Task) -> int:
    """The class that the task asks for.

    Raises:
        DataError: ``target["label"]`` is no whole number from 0 on.
    """
    target = task.target
    found = target.get("label") if isinstance(target, dict) else None
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise DataError(f"task {task.id!r}: target.label must be a whole number >= 0, got {found!r}")
    return found


@dataclass(frozen=True, kw_only=True)
class ClassifierConfidence(DifferentiableReward):
    """p(label of the task | picture) of a classifier, in [0, 1]; 0 without a picture.

    A learned reward with the faults of one: far from the training pictures it can be sure and wrong.
    """

    classifier: Classifier

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        shown = [i for i, one in enumerate(trajectories) if one.image is not None]
        found = [Score(0.0, note="no image")] * len(trajectories)
        if shown:
            logits = self.classifier.logits([_image(trajectories[i]) for i in shown])
            for i, row in zip(shown, logits.softmax(1), strict=True):
                found[i] = Score(_at(row, label(trajectories[i].task)), note=f"looks like {int(row.argmax())}")
        return found

    def differentiable(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[Prompt]) -> Float[Tensor, "N"]:
        network = self.classifier.network()
        probabilities = network(fitted(images, self.classifier.side)).softmax(1)
        wanted = torch.tensor([label(prompt.task) for prompt in prompts])
        return probabilities.gather(1, wanted[:, None])[:, 0]


@dataclass(frozen=True, kw_only=True)
class ClassReading(Reward):
    """1 if the classifier reads the class that the task asks for, a digit for instance, else 0; 0 without a picture."""

    classifier: Classifier

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        shown = [i for i, one in enumerate(trajectories) if one.image is not None]
        found = [Score(0.0, note="no image")] * len(trajectories)
        if shown:
            read = self.classifier.logits([_image(trajectories[i]) for i in shown]).argmax(1).tolist()
            for i, value in zip(shown, read, strict=True):
                found[i] = Score(float(value == label(trajectories[i].task)), note=f"reads {value}")
        return found


def _at(row: Tensor, index: int) -> float:
    return row[index].item() if index < len(row) else 0.0


def _image(trajectory: Trajectory) -> Image:
    image = trajectory.image
    assert image is not None
    return image
