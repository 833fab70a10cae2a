"""Rewards of solids from what is seen of them: a learned score of several views at once, a prior, exact overlaps.

Policies put out a mesh and one picture a view; with gradient all views are one picture, side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.core.content import Content, Mesh, images_of, text_of
from saccade.core.environment import Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.meshes import VIEWS, View, edges, filled, harmonics, outlines, overlap, roughness, sheet, silhouettes
from saccade.core.random import fold_in, numpy_generator, torch_generator
from saccade.core.reward import DifferentiableReward, SampleReward, Score
from saccade.core.trajectory import Prompt, Task, Trajectory
from saccade.rewards.networks import trained

JUDGED: tuple[View, ...] = tuple((22.5 * i, elevation) for i, elevation in enumerate((0.0, 40.0) * 4))
"""Where simulated annotators look at solids from."""
HIDDEN: tuple[View, ...] = ((22.0, 0.0), (67.0, 35.0), (112.0, -20.0), (157.0, 50.0), (90.0, -40.0), (0.0, 85.0))
"""Views that no policy draws and no reward sees."""


@dataclass(frozen=True, kw_only=True)
class ViewsModel:
    """A small scorer of (caption, views of a solid) and the ranked solids it learns from.

    Solids are deformed gold meshes of the caption and of others. Annotators rank ``ranked`` of them by the overlap of
    their silhouettes with those of the right solid, as seen from all around, plus Gumbel noise; the scorer learns by
    ``-log sigmoid(s_w - s_l)`` over all pairs of a ranking (Bradley and Terry). Trained once, kept in the cache folder.
    """

    tasks: Tasks
    """Captions with gold meshes that are star-shaped on equal directions; the model learns from these only."""
    sees: tuple[int, ...] = (0, 1, 2, 3)
    """Which of the views are scored, together."""
    rankings: int = 512
    ranked: int = 4
    temperature: float = 0.02
    """Of the annotators, in units of overlap."""
    channels: int = 16
    steps: int = 500
    batch: int = 24
    """Rankings a step."""
    lr: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rankings", 1), ("ranked", 2), ("channels", 1), ("steps", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"model.{name} must be >= {least}, got {getattr(self, name)}")
        for name in ("temperature", "lr"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"model.{name} must be > 0, got {getattr(self, name)}")
        if not self.sees or len(set(self.sees)) != len(self.sees) or min(self.sees) < 0:
            raise ConfigError(f"model.sees must name different views, got {self.sees}")

    def network(self) -> ViewsScorer:
        """The trained scorer, frozen."""
        return _network(self)

    def accuracy(self, tasks: Tasks, n: int = 128, seed: int = 1) -> tuple[float, float]:
        """Share of pairs that the model orders by overlap, and that an annotator does; on rankings of these tasks."""
        found = _rankings(self, tasks, n, fold_in(seed, "accuracy"))
        with torch.no_grad():
            score = self.network()(found.views.flatten(0, 1), [c for c in found.captions for _ in range(self.ranked)])
        order = found.overlap.argsort(1, descending=True)
        right = [score.reshape(order.shape).gather(1, order), found.heard.gather(1, order)]
        better, worse = torch.triu_indices(self.ranked, self.ranked, 1)
        model, annotator = (float((x[:, better] > x[:, worse]).float().mean()) for x in right)
        return model, annotator


class ViewsScorer(nn.Module):
    """One convolutional network for all views, their features side by side, the words of the caption, an MLP."""

    FEATURES, WORDS = 64, 64
    mean: Tensor
    std: Tensor

    def __init__(self, sees: tuple[int, ...], channels: int, words: Sequence[str]) -> None:
        super().__init__()
        self.sees = sees
        self.index = {word: i for i, word in enumerate(words)}
        self.table = nn.Embedding(len(words) + 1, self.WORDS)
        self.told = nn.Sequential(nn.SiLU(), nn.Linear(self.WORDS, 2 * self.FEATURES * len(sees)))
        self.eye = nn.Sequential(
            nn.Conv2d(1, channels, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(2 * channels, 2 * channels, 4, stride=2, padding=1), nn.SiLU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(32 * channels, self.FEATURES), nn.SiLU(),
        )  # fmt: skip
        joint = self.FEATURES * len(sees)
        self.last = nn.Sequential(nn.Linear(joint, 128), nn.SiLU(), nn.Linear(128, 64), nn.SiLU(), nn.Linear(64, 1))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def forward(self, images: Float[Tensor, "N 3 H W"], captions: Sequence[str]) -> Float[Tensor, "N"]:
        """Standardised scores of RGB in [0, 1], square views side by side."""
        views = apart(images)
        if views.shape[1] <= max(self.sees):
            raise DataError(f"the scorer looks at view {max(self.sees)}, the picture has {views.shape[1]}")
        seen = views[:, list(self.sees)]
        features = self.eye(2 * seen.flatten(0, 1)[:, None] - 1).reshape(len(images), -1)
        rows = [[self.index.get(word, len(self.index)) for word in caption.split()] for caption in captions]
        words = torch.stack([self.table(torch.tensor(row, dtype=torch.int64)).sum(0) for row in rows])
        gain, shift = self.told(words).chunk(2, 1)
        return (self.last(features * (1 + gain) + shift)[:, 0] - self.mean) / self.std


def apart(images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N v H H"]:
    """The square views of a picture, as grey."""
    side = images.shape[2]
    if images.shape[3] % side:
        raise DataError(f"views must be squares side by side, got a picture of {images.shape[3]} x {side}")
    return torch.stack(images.mean(1).split(side, -1), 1)


@dataclass(frozen=True, eq=False)
class _Rankings:
    captions: list[str]
    views: Float[Tensor, "R k 3 H W"]
    overlap: Float[Tensor, "R k"]
    heard: Float[Tensor, "R k"]
    """Overlap with the annotator's noise: the larger the better liked."""


@lru_cache(maxsize=8)
def _gold(tasks: Tasks) -> tuple[list[str], Tensor, Tensor, Tensor, int]:
    """Captions, log-radii ``[C, V]``, directions, faces, pixels of a view."""
    captions: list[str] = []
    radii: list[Tensor] = []
    for task in tasks:
        mesh = _mesh_of(task.gold[-1]) if task.gold else None
        if mesh is None:
            raise DataError(f"task {task.id!r}: a model of views learns from gold meshes, this task has none")
        captions.append(text_of(task.prompt))
        vertices = torch.from_numpy(mesh.vertices).double()
        radii.append(vertices.norm(dim=1).log())
        directions, faces = vertices / vertices.norm(dim=1, keepdim=True), torch.from_numpy(mesh.faces)
        side = images_of(task.gold[-1])[0].height
    return captions, torch.stack(radii), directions, faces, side


@torch.no_grad()
def _rankings(spec: ViewsModel, tasks: Tasks, n: int, seed: int) -> _Rankings:
    captions, radii, directions, faces, side = _gold(tasks)
    random = numpy_generator(seed, "solids")
    asked = torch.from_numpy(random.integers(len(captions), size=n))
    shape = (n, spec.ranked)
    other = radii[torch.from_numpy(random.integers(len(captions), size=shape))]
    other[torch.from_numpy(random.random(shape) < 0.25)] = radii.mean()
    mixed = torch.lerp(radii[asked][:, None], other, torch.from_numpy(random.random((*shape, 1))))
    basis = harmonics(directions, 3)
    size = random.uniform(0, 0.06, (*shape, 1))
    mixed = mixed + torch.from_numpy(size * random.standard_normal((*shape, basis.shape[1]))) @ basis.T
    lines = edges(faces)

    def seen(logs: Tensor, views: Sequence[View]) -> Tensor:
        vertices = (logs.exp()[..., None] * directions).float()
        return torch.cat([filled(outlines(part, lines, views), side) for part in vertices.split(256)])

    right = seen(radii, JUDGED)[asked]
    judged = seen(mixed.flatten(0, 1), JUDGED).unflatten(0, shape)
    quality = overlap(judged, right[:, None]).mean(-1)
    noise = torch.from_numpy(random.gumbel(size=shape)).float()
    views = sheet(seen(mixed.flatten(0, 1), VIEWS)).unflatten(0, shape)
    return _Rankings([captions[i] for i in asked.tolist()], views, quality, quality + spec.temperature * noise)


@lru_cache(maxsize=8)
def _network(spec: ViewsModel) -> ViewsScorer:
    words = sorted({word for caption in _gold(spec.tasks)[0] for word in caption.split()})

    def train(network: ViewsScorer) -> None:
        found = _rankings(spec, spec.tasks, spec.rankings, fold_in(spec.seed, "train"))
        generator = torch_generator(fold_in(spec.seed, "views"))
        optimiser = torch.optim.AdamW(network.parameters(), lr=spec.lr, weight_decay=0.05)
        order = found.heard.argsort(1, descending=True)
        better, worse = torch.triu_indices(spec.ranked, spec.ranked, 1)
        for step in range(spec.steps):
            for group in optimiser.param_groups:
                group["lr"] = spec.lr * min(1.0, (step + 1) / 30, 2 * (1 - step / spec.steps))
            rows = torch.randint(spec.rankings, (spec.batch,), generator=generator)
            captions = [found.captions[i] for i in rows.tolist() for _ in range(spec.ranked)]
            score = network(found.views[rows].flatten(0, 1), captions).reshape(spec.batch, spec.ranked)
            liked = score.gather(1, order[rows])
            loss = -F.logsigmoid(liked[:, better] - liked[:, worse]).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
        with torch.no_grad():
            captions = [caption for caption in found.captions for _ in range(spec.ranked)]
            parts = [slice(i, i + 256) for i in range(0, len(captions), 256)]
            own = torch.cat([network(found.views.flatten(0, 1)[part], captions[part]) for part in parts])
            network.mean.copy_(own.mean())
            network.std.copy_(own.std().clamp(min=1e-6))

    return trained(spec, spec.seed, lambda: ViewsScorer(spec.sees, spec.channels, words), train)


@dataclass(frozen=True, kw_only=True)
class _OfViews(DifferentiableReward):
    """Solids are scored by their pictures; an output without pictures is unscored."""

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        found = [Score(None, note="no views")] * len(trajectories)
        for i, trajectory in enumerate(trajectories):
            if pictures := images_of(trajectory.output):
                row = np.concatenate([picture.pixels for picture in pictures], 1)
                image = torch.from_numpy(row).permute(2, 0, 1)[None].float() / 255
                with torch.no_grad():
                    found[i] = Score(float(self.differentiable(image, [trajectory.prompt])[0]))
        return found


@dataclass(frozen=True, kw_only=True)
class ViewsScore(_OfViews):
    """Score of a model of views, zero mean and unit variance over the solids it was trained on."""

    model: ViewsModel

    def differentiable(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[Prompt]) -> Float[Tensor, "N"]:
        return self.model.network()(images, [text_of(prompt.content) for prompt in prompts])


@dataclass(frozen=True, kw_only=True)
class ViewsPrior(_OfViews):
    """Minus the mean squared distance of the views to what a prior expects to see.

    The prior understands the first ``known`` words of a caption only and expects the mean of all solids that have
    them: what the denoiser of a multi-view diffusion model predicts when it sees noise. Stands in for score
    distillation, ``1/2 |x - sg[x_predicted]|^2``.
    """

    tasks: Tasks
    known: int = 2

    def __post_init__(self) -> None:
        if self.known < 0:
            raise ConfigError(f"known must be >= 0, got {self.known}")

    def differentiable(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[Prompt]) -> Float[Tensor, "N"]:
        expected = _expected(self)
        rows: list[Tensor] = []
        for prompt in prompts:
            key = _first_words(prompt.task, self.known)
            if key not in expected:
                raise DataError(f"task {prompt.task.id!r}: the prior has seen nothing that is called {' '.join(key)!r}")
            rows.append(expected[key])
        return -((apart(images) - torch.stack(rows).to(images)) ** 2).mean((1, 2, 3))


def _first_words(task: Task, known: int) -> tuple[str, ...]:
    return tuple(text_of(task.prompt).split()[:known])


@lru_cache(maxsize=8)
def _expected(prior: ViewsPrior) -> dict[tuple[str, ...], Float[Tensor, "v H H"]]:
    seen: dict[tuple[str, ...], list[np.ndarray]] = {}
    for task in prior.tasks:
        if not task.gold or not images_of(task.gold[-1]):
            raise DataError(f"task {task.id!r}: a prior of views needs gold pictures, this task has none")
        pictures = np.stack([image.pixels[..., 0] for image in images_of(task.gold[-1])])
        seen.setdefault(_first_words(task, prior.known), []).append(pictures)
    return {key: torch.from_numpy(np.mean(found, 0) / 255).float() for key, found in seen.items()}


@dataclass(frozen=True, kw_only=True)
class SilhouetteOverlap(SampleReward):
    """Mean over views of the intersection over union of the mesh's silhouettes with those of the task's target.

    In [0, 1]; an output that is not one mesh gets 0.
    """

    views: tuple[View, ...] = HIDDEN
    side: int = 32

    def __post_init__(self) -> None:
        if not self.views or self.side < 1:
            raise ConfigError("there must be a view and side must be >= 1")

    def score(self, trajectory: Trajectory) -> float:
        mesh, target = _mesh_of(trajectory.output), trajectory.task.target
        if not isinstance(target, Mesh):
            raise DataError(f"task {trajectory.task.id!r}: the target must be a mesh, got {type(target).__name__}")
        return 0.0 if mesh is None else float(overlap(self._seen(mesh), self._seen(target)).mean())

    def _seen(self, mesh: Mesh) -> Float[Tensor, "v side side"]:
        faces = torch.from_numpy(mesh.faces)
        return (silhouettes(torch.from_numpy(mesh.vertices), faces, self.views, self.side) > 0.5).float()


@dataclass(frozen=True, kw_only=True)
class Roughness(SampleReward):
    """Uniform Laplacian of the mesh, mean squared distance of a vertex to its neighbours' mean; a price.

    Unscored without a mesh.
    """

    def score(self, trajectory: Trajectory) -> float | None:
        mesh = _mesh_of(trajectory.output)
        if mesh is None:
            return None
        return float(roughness(torch.from_numpy(mesh.vertices), edges(torch.from_numpy(mesh.faces))))


def _mesh_of(output: Content) -> Mesh | None:
    """The one mesh of an output, if it can be drawn."""
    meshes = [part for part in output if isinstance(part, Mesh)]
    if len(meshes) != 1 or not len(meshes[0].faces) or not math.isfinite(float(np.abs(meshes[0].vertices).max())):
        return None
    faces = meshes[0].faces
    return meshes[0] if faces.min() >= 0 and faces.max() < len(meshes[0].vertices) else None
