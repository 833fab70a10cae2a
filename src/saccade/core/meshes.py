"""Triangle meshes in torch: star-shaped solids, and silhouettes with a gradient.

x points right, y up and z towards the viewer of azimuth 0. Cameras are orthographic and look at the origin; pictures
show [-extent, extent] in both directions, first row on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

View = tuple[float, float]
"""Azimuth and elevation of the viewer, in degrees."""
VIEWS: tuple[View, ...] = ((0.0, 15.0), (45.0, 15.0), (90.0, 15.0), (135.0, 15.0))
"""Four sides of a solid; the back is their mirror image."""
EXTENT = 1.5
TAU = 0.03
"""Width of a soft edge, in units of length; two thirds of it at 64 pixels, a third at 32."""
RAYS = 64


@lru_cache(maxsize=8)
def icosphere(detail: int) -> tuple[Float[Tensor, "V 3"], Int[Tensor, "F 3"]]:
    """Unit vectors (double precision) and faces of an icosahedron divided so often: 12, 42, 162, ... vertices.

    Faces are counter-clockwise seen from outside.
    """
    golden = (1 + 5**0.5) / 2
    corners = [(-1, golden, 0), (1, golden, 0), (-1, -golden, 0), (1, -golden, 0)]
    points = [np.array(np.roll(corner, shift), float) for shift in range(3) for corner in corners]
    points = [point / np.linalg.norm(point) for point in points]
    side = min(np.linalg.norm(points[0] - point) for point in points[1:]) * 1.01
    near = [[float(np.linalg.norm(a - b)) < side for b in points] for a in points]
    faces = [
        (i, j, k) if np.linalg.det([points[i], points[j], points[k]]) > 0 else (i, k, j)
        for i in range(12)
        for j in range(i)
        for k in range(j)
        if near[i][j] and near[j][k] and near[i][k]
    ]
    for _ in range(detail):
        middle: dict[tuple[int, int], int] = {}

        def between(i: int, j: int, middle: dict[tuple[int, int], int] = middle) -> int:
            key = (min(i, j), max(i, j))
            if key not in middle:
                middle[key] = len(points)
                points.append((points[i] + points[j]) / np.linalg.norm(points[i] + points[j]))
            return middle[key]

        finer: list[tuple[int, int, int]] = []
        for i, j, k in faces:
            a, b, c = between(i, j), between(j, k), between(k, i)
            finer += [(i, a, c), (j, b, a), (k, c, b), (a, b, c)]
        faces = finer
    return torch.from_numpy(np.stack(points)), torch.tensor(faces)


def edges(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "E 2"]:
    """Each edge once, the smaller index first."""
    pairs = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(1).values
    return pairs.unique(dim=0)


def harmonics(directions: Float[Tensor, "V 3"], degree: int) -> Float[Tensor, "V B"]:
    """The (degree + 1)^2 polynomials of at most this degree on these unit vectors, orthogonal, low degrees first.

    Their mean square is 1. On the sphere z^2 is no new function, so that powers of z above 1 are left out.
    """
    x, y, z = directions.double().T
    powers = [(i, total - i - k, k) for total in range(degree + 1) for k in (0, 1) for i in range(total - k, -1, -1)]
    columns = torch.stack([x**i * y**j * z**k for i, j, k in powers], 1)
    q, r = torch.linalg.qr(columns)
    return q * r.diagonal().sign() * len(directions) ** 0.5


def cameras(views: Sequence[View], like: Tensor) -> Float[Tensor, "v 2 3"]:
    """Rows of each matrix: what is right and what is up in the picture."""
    azimuth, elevation = torch.tensor(views, dtype=torch.float64).deg2rad().T
    zero = torch.zeros_like(azimuth)
    right = torch.stack([azimuth.cos(), zero, -azimuth.sin()], 1)
    viewer = torch.stack([azimuth.sin() * elevation.cos(), elevation.sin(), azimuth.cos() * elevation.cos()], 1)
    return torch.stack([right, torch.linalg.cross(viewer, right)], 1).to(like)


def outlines(
    vertices: Float[Tensor, "N V 3"], lines: Int[Tensor, "E 2"], views: Sequence[View], rays: int = RAYS
) -> Float[Tensor, "N v A"]:
    """How far the silhouette of a star-shaped mesh reaches in ``rays`` directions, the first one to the right.

    A projection of a solid that is star-shaped around the origin is star-shaped too, and its outline lies on projected
    edges: of all edges that meet a ray the farthest one counts. Which one that is takes no gradient.
    """
    flat = torch.einsum("vij,nkj->nvki", cameras(views, vertices), vertices)
    angle = torch.arange(rays, dtype=torch.float64) * (2 * torch.pi / rays)
    ray = torch.stack([angle.cos(), angle.sin()]).to(vertices)
    with torch.no_grad():
        side = flat[..., :1] * ray[1] - flat[..., 1:] * ray[0]
        along = flat @ ray
        first, second = side[:, :, lines[:, 0]], side[:, :, lines[:, 1]]
        meets = (first <= 0) != (second <= 0)
        share = first / torch.where(meets, first - second, 1.0)
        reach = torch.lerp(along[:, :, lines[:, 0]], along[:, :, lines[:, 1]], share)
        farthest = torch.where(meets, reach, -torch.inf).argmax(2)
    ends = [flat.gather(2, lines[:, k][farthest][..., None].expand(-1, -1, -1, 2)) for k in (0, 1)]
    first, second = (end[..., 0] * ray[1] - end[..., 1] * ray[0] for end in ends)
    share = first / (first - second)
    start, stop = ((end * ray.T).sum(-1) for end in ends)
    return start + share * (stop - start)


def filled(
    outline: Float[Tensor, "*B A"], side: int, extent: float = EXTENT, tau: float = TAU
) -> Float[Tensor, "*B side side"]:
    """Pictures of outlines: ``sigmoid((outline(angle of p) - |p|) / tau)`` at each pixel p; 1 is inside."""
    line = ((torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1) * extent
    y, x = torch.meshgrid(-line, line, indexing="ij")
    rays = outline.shape[-1]
    place = torch.atan2(y, x) / (2 * torch.pi) * rays
    below = place.floor()
    share = (place - below).to(outline)
    low = below.long() % rays
    reach = torch.lerp(outline[..., low], outline[..., (low + 1) % rays], share)
    return torch.sigmoid((reach - torch.hypot(x, y).to(outline)) / tau)


def silhouettes(
    vertices: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    views: Sequence[View],
    side: int,
    extent: float = EXTENT,
    tau: float = TAU,
) -> Float[Tensor, "v side side"]:
    """Pictures of any mesh:  ``sigmoid(max_f min_k d_fk(p) / tau)``  with d_fk the distance of pixel p to the line of
    edge k of face f, positive inside. Every face is looked at for every pixel.
    """
    line = ((torch.arange(side) + 0.5) / side * 2 - 1) * extent
    y, x = torch.meshgrid(-line, line, indexing="ij")
    pixel = torch.stack([x, y], -1).reshape(-1, 2).to(vertices)
    pictures: list[Tensor] = []
    for camera in cameras(views, vertices):
        corner = (vertices @ camera.T)[faces]
        nearest = vertices.new_full((len(faces), len(pixel)), torch.inf)
        size = _cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        for k in range(3):
            start, along = corner[:, k], corner[:, (k + 1) % 3] - corner[:, k]
            away = _cross(along[:, None], pixel[None] - start[:, None]) / along.norm(dim=1).clamp(min=1e-12)[:, None]
            nearest = torch.minimum(nearest, away * size.sign()[:, None])
        # A face seen edge on covers nothing.
        nearest = torch.where(size.abs()[:, None] > 1e-9, nearest, -torch.inf)
        pictures.append(torch.sigmoid(nearest.amax(0) / tau).reshape(side, side))
    return torch.stack(pictures)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def roughness(vertices: Float[Tensor, "V 3"], lines: Int[Tensor, "E 2"]) -> Float[Tensor, ""]:
    """Uniform Laplacian:  mean over vertices of |v - mean of its neighbours|^2."""
    total = torch.zeros_like(vertices).index_add(0, lines[:, 0], vertices[lines[:, 1]])
    total = total.index_add(0, lines[:, 1], vertices[lines[:, 0]])
    count = torch.bincount(lines.flatten(), minlength=len(vertices)).clamp(min=1)
    return ((vertices - total / count[:, None]) ** 2).sum(1).mean()


def overlap(a: Float[Tensor, "*#B H W"], b: Float[Tensor, "*#B H W"]) -> Float[Tensor, "*B"]:
    """Intersection over union of soft pictures:  sum(ab) / sum(a + b - ab);  1 for two empty ones."""
    both = (a * b).sum((-2, -1))
    either = (a + b - a * b).sum((-2, -1))
    return torch.where(either > 0, both / either.clamp(min=1e-12), 1.0)


def sheet(pictures: Float[Tensor, "*B v H W"]) -> Float[Tensor, "*B 3 H vW"]:
    """Grey pictures side by side as one RGB picture."""
    row = torch.cat(pictures.unbind(-3), -1)
    return row.unsqueeze(-3).expand(*row.shape[:-2], 3, *row.shape[-2:])
