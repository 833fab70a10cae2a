"""Meshes in files, and whether they are solids; needs trimesh (the extra ``shapes3d``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh

from saccade.core.content import Mesh
from saccade.core.errors import DataError


@dataclass(frozen=True)
class MeshCheck:
    watertight: bool
    """Every edge belongs to two faces."""
    outward: bool
    """Faces are wound consistently and enclose a positive volume."""
    volume: float
    """Signed, in cubed units of the vertices; means something for watertight meshes only."""


def write_mesh(mesh: Mesh, path: Path) -> None:
    """Write ``.ply``, ``.stl``, ``.obj``, ``.glb`` or ``.off``, as the file's name says.

    Raises:
        DataError: another kind of file.
    """
    try:
        _solid(mesh).export(str(path))
    except (ValueError, NotImplementedError) as error:
        raise DataError(f"{path}: cannot write a mesh of this kind: {error}") from None


def read_mesh(path: Path) -> Mesh:
    """The mesh of a file; several of a scene as one, vertices at the same place as one.

    Raises:
        DataError: the file is missing or holds no triangles.
    """
    try:
        found = trimesh.load(str(path), force="mesh")
    except (OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path}: cannot read a mesh: {error}") from None
    if not isinstance(found, trimesh.Trimesh) or not len(found.faces):
        raise DataError(f"{path}: holds no triangles")
    found.merge_vertices()
    return Mesh(np.asarray(found.vertices, np.float32), np.asarray(found.faces, np.int64))


def check_mesh(mesh: Mesh) -> MeshCheck:
    """Whether the mesh bounds a solid."""
    solid = _solid(mesh)
    volume = float(solid.volume)
    return MeshCheck(bool(solid.is_watertight), bool(solid.is_winding_consistent) and volume > 0, volume)


def _solid(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
