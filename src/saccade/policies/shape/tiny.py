"""A tiny generator of star-shaped solids: words in, a mesh and its views out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from saccade.core.batch import Batch
from saccade.core.content import Content, Image, Mesh, text_of
from saccade.core.errors import CapabilityError, ConfigError, DataError
from saccade.core.meshes import VIEWS, View, edges, filled, harmonics, icosphere, outlines, sheet
from saccade.core.policy import Act, LogProbs, Need, Policy, PolicySpec, Sampling
from saccade.core.random import torch_generator
from saccade.core.trajectory import Context, Prompt, Trajectory
from saccade.policies.folder import read_policy, write_policy


@dataclass(frozen=True)
class TinyShapes(PolicySpec):
    """``log r = log radius + B z``,  ``z ~ N(net(words), std^2)``,  B harmonics on the vertices of an icosphere.

    The output is ``(Mesh, Image, ...)``, one silhouette a view. Words are those of the prompt; unknown ones count as
    one and the same word.
    """

    words: tuple[str, ...]
    detail: int = 1
    """Divisions of the icosphere: 42, 162, ... vertices from 1 on."""
    degree: int = 4
    """Of the harmonics; there are (degree + 1)^2."""
    width: int = 64
    radius: float = 0.85
    """Of the ball that is drawn at first."""
    std: float = 0.03
    views: tuple[View, ...] = VIEWS
    """Azimuth and elevation of each picture, in degrees."""
    side: int = 32
    """Pixels a side of a picture."""

    def __post_init__(self) -> None:
        for name, least in (("detail", 0), ("degree", 0), ("width", 1), ("side", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be >= {least}, got {getattr(self, name)}")
        for name in ("radius", "std"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be > 0, got {getattr(self, name)}")
        if not self.views or len(set(self.words)) != len(self.words):
            raise ConfigError("there must be a view, and words must differ from each other")
        if (self.degree + 1) ** 2 > (vertices := 10 * 4**self.detail + 2):
            raise ConfigError(f"degree {self.degree} is too high for {vertices} vertices: raise detail")

    def build(self, device: torch.device, seed: int = 0) -> ShapePolicy:
        """The policy with weights drawn from ``seed``, in float32."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return ShapePolicy(self).to(device)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> ShapePolicy:
        """The policy that ``save_pretrained`` wrote.

        Raises:
            CheckpointError: the folder does not hold a complete TinyShapes.
        """
        return read_policy(cls, folder, device)


@dataclass(eq=False)
class ShapeRecord:
    """What was drawn, and how."""

    z: Float[Tensor, "B"]
    temperature: float


class ShapePolicy(Policy):
    """One action a turn: the whole solid. Its log-probability is the density of z, summed over its numbers.

    ``rsample`` draws the same solids as ``act`` and renders them, views side by side, with gradient.
    """

    spec: TinyShapes
    provides = frozenset({"entropy", "kl", "pathwise"})
    directions: Tensor
    basis: Tensor
    faces: Tensor
    lines: Tensor

    def __init__(self, spec: TinyShapes) -> None:
        super().__init__()
        self.spec = spec
        directions, faces = icosphere(spec.detail)
        basis = harmonics(directions, spec.degree)
        for name, value in (("directions", directions.float()), ("basis", basis.float())):
            self.register_buffer(name, value, persistent=False)
        for name, value in (("faces", faces), ("lines", edges(faces))):
            self.register_buffer(name, value, persistent=False)
        self.index = {word: i for i, word in enumerate(spec.words)}
        self.table = nn.Embedding(len(spec.words) + 1, spec.width)
        self.out = nn.Linear(spec.width, basis.shape[1])
        self.net = nn.Sequential(nn.SiLU(), nn.Linear(spec.width, spec.width), nn.SiLU())
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)

    def mean(self, prompts: Sequence[Prompt]) -> Float[Tensor, "P B"]:
        """Of z, for the words of these prompts."""
        rows = [[self.index.get(w, len(self.index)) for w in text_of(p.content).split()] for p in prompts]
        sums = [self.table(torch.tensor(row, dtype=torch.int64, device=self.device)).sum(0) for row in rows]
        return self.out(self.net(torch.stack(sums)))

    def vertices(self, z: Float[Tensor, "N B"]) -> Float[Tensor, "N V 3"]:
        """Of the meshes."""
        return self.spec.radius * (z @ self.basis.T).exp()[..., None] * self.directions

    def pictures(self, vertices: Float[Tensor, "N V 3"]) -> Float[Tensor, "N v side side"]:
        """Their silhouettes, 1 inside."""
        return filled(outlines(vertices, self.lines, self.spec.views), self.spec.side)

    def rsample(
        self,
        contexts: Sequence[Context],
        *,
        n: int = 1,
        seeds: Sequence[int],
        keep_last: int = 1,
        stop: int | None = None,
    ) -> Float[Tensor, "N 3 H W"]:
        """Views side by side, in [0, 1]. Drawing takes one step: ``keep_last`` and ``stop`` have nothing to cut."""
        if keep_last != 1 or stop is not None:
            raise ConfigError(f"solids are drawn in one step, got keep_last {keep_last} and stop {stop}")
        mean = self.mean([context.prompt for context in contexts]).repeat_interleave(n, 0)
        return sheet(self.pictures(self.vertices(mean + self.spec.std * self._noise(mean, seeds))))

    @torch.no_grad()
    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        if sampling.top_p != 1:
            raise ConfigError(f"sampling.top_p must be 1 for solids, got {sampling.top_p}")
        mean = self.mean([context.prompt for context in contexts]).repeat_interleave(n, 0)
        std = sampling.temperature * self.spec.std
        z = mean if sampling.deterministic else mean + std * self._noise(mean, seeds)
        logp = _log_normal(z, mean, std).float().cpu()
        vertices = self.vertices(z)
        pictures = (255 * self.pictures(vertices)).round().to(torch.uint8).cpu().numpy()
        acts = [
            Act(
                (Mesh(solid, self.faces.cpu().numpy()), *(Image(np.repeat(view[..., None], 3, 2)) for view in views)),
                ShapeRecord(numbers.clone(), sampling.temperature),
                density[None].clone(),
                torch.tensor([not sampling.deterministic]),
                torch.zeros(1, dtype=torch.int64),
            )
            for solid, views, numbers, density in zip(
                vertices.float().cpu().numpy(), pictures, z.cpu(), logp, strict=True
            )
        ]
        return [acts[i * n : (i + 1) * n] for i in range(len(contexts))]

    def log_prob(self, batch: Batch, need: Need = Need()) -> LogProbs:
        means = self.mean(batch.prompts)
        tables: dict[str, Any] = {"logp": means.new_zeros(batch.mask.shape)}
        tables |= {"entropy": tables["logp"].clone()} if need.entropy else {}
        tables |= {"kl": tables["logp"].clone()} if need.kl_to is not None else {}
        row, column = batch.mask.nonzero(as_tuple=True)
        if len(row):
            records = [
                batch.trajectories[i].turns[k].record for i, k in zip(row.tolist(), column.tolist(), strict=True)
            ]
            wrong = next((one for one in records if not isinstance(one, ShapeRecord)), None)
            if wrong is not None:
                raise CapabilityError(f"this policy scores solids, got {wrong!r}")
            group = batch.group[row]
            std = self.spec.std * means.new_tensor([record.temperature for record in records])
            z = torch.stack([record.z for record in records]).to(means)
            found = {"logp": _log_normal(z, means[group], std[:, None])}
            if need.entropy:
                found["entropy"] = z.shape[1] * (std.log() + 0.5 * math.log(2 * math.pi * math.e))
            if need.kl_to is not None:
                with torch.no_grad():
                    theirs = self._comparable(need.kl_to).mean(batch.prompts).to(means)
                found["kl"] = 0.5 * (((means - theirs)[group] / std[:, None]) ** 2).sum(1)
            tables = {name: table.index_put((row, column), found[name]) for name, table in tables.items()}
        return LogProbs(**tables)

    @torch.no_grad()
    def encode(self, contexts: Sequence[Context], outputs: Sequence[Content]) -> list[Act]:
        """Harmonics closest to the radii of a mesh on the same icosphere."""
        acts = []
        for context, output in zip(contexts, outputs, strict=True):
            meshes = [part for part in output if isinstance(part, Mesh)]
            task = context.prompt.task.id
            if len(meshes) != 1 or meshes[0].vertices.shape != tuple(self.directions.shape):
                raise DataError(f"task {task!r}: expected one mesh of {len(self.directions)} vertices")
            vertices = torch.from_numpy(meshes[0].vertices).to(self.basis)
            radius = vertices.norm(dim=1)
            if not bool(((vertices - radius[:, None] * self.directions).abs() < 1e-4).all()) or not radius.min() > 0:
                raise DataError(f"task {task!r}: the mesh's vertices must lie in the directions of the icosphere's")
            z = torch.linalg.lstsq(self.basis, (radius / self.spec.radius).log()[:, None]).solution[:, 0]
            one = torch.ones(1, dtype=torch.bool)
            acts.append(Act(output, ShapeRecord(z.cpu(), 1.0), torch.zeros(1), one, torch.zeros(1, dtype=torch.int64)))
        return acts

    def size(self, trajectory: Trajectory) -> int:
        """Pictures of all turns."""
        return len(self.spec.views) * len(trajectory.turns)

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` (the spec) and ``model.safetensors``; ``TinyShapes.load`` reads them."""
        write_policy(self, folder)

    def _noise(self, mean: Float[Tensor, "N B"], seeds: Sequence[int]) -> Float[Tensor, "N B"]:
        """Always float32 numbers: a policy in double precision meets the same draws."""
        return torch.stack([torch.randn(mean.shape[1], generator=torch_generator(seed)) for seed in seeds]).to(mean)

    def _comparable(self, other: Policy) -> ShapePolicy:
        if not isinstance(other, ShapePolicy) or other.spec != self.spec:
            raise CapabilityError("exact KL needs a TinyShapes reference with the same settings")
        return other


def _log_normal(z: Tensor, mean: Tensor, std: Tensor | float) -> Float[Tensor, "N"]:
    std = torch.as_tensor(std, dtype=z.dtype, device=z.device)
    return (-0.5 * ((z - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
