"""Icospheres, harmonics, outlines and silhouettes, against numbers derived by hand and each other."""

import math

import numpy as np
import pytest
import torch

from saccade.core.content import Mesh
from saccade.core.meshes import (
    cameras,
    edges,
    filled,
    harmonics,
    icosphere,
    outlines,
    overlap,
    roughness,
    sheet,
    silhouettes,
)

ROUND = ((0.0, 0.0), (30.0, 20.0), (200.0, -50.0))


@pytest.mark.parametrize(("detail", "vertices"), [(0, 12), (1, 42), (2, 162)])
def test_icospheres_are_closed_and_face_outwards(detail, vertices):
    """V - E + F = 2, each edge in two faces, in opposite directions; every face's normal points away from 0."""
    points, faces = icosphere(detail)
    assert points.shape == (vertices, 3) and torch.allclose(points.norm(dim=1), torch.ones(vertices).double())
    assert vertices - len(edges(faces)) + len(faces) == 2
    directed = {(int(f[k]), int(f[(k + 1) % 3])) for f in faces for k in range(3)}
    assert len(directed) == 3 * len(faces) and {(b, a) for a, b in directed} == directed
    a, b, c = (points[faces[:, k]] for k in range(3))
    assert bool(((torch.linalg.cross(b - a, c - a) * (a + b + c)).sum(1) > 0).all())


def test_harmonics_are_orthogonal_and_of_rising_degree():
    points, _ = icosphere(1)
    basis = harmonics(points, 3)
    torch.testing.assert_close(basis.T @ basis / 42, torch.eye(16).double())
    torch.testing.assert_close(basis[:, 0], torch.ones(42).double())
    # The next three are linear: each is some a . d, so that opposite points have opposite values.
    opposite = (points @ points.T).argmin(1)
    torch.testing.assert_close(basis[opposite, 1:4], -basis[:, 1:4])


def test_cameras_see_right_and_up_as_the_axes_say():
    """From azimuth 90 the viewer stands on +x: -z is right. From above, -z is up."""
    front, side, above = cameras([(0.0, 0.0), (90.0, 0.0), (0.0, 90.0)], torch.zeros(()).double())
    torch.testing.assert_close(front, torch.tensor([[1.0, 0, 0], [0, 1, 0]]).double())
    torch.testing.assert_close(side, torch.tensor([[0.0, 0, -1], [0, 1, 0]]).double())
    torch.testing.assert_close(above, torch.tensor([[1.0, 0, 0], [0, 0, -1]]).double())


def octahedron(x=1.0, y=1.0, z=1.0):
    points = [(x, 0, 0), (-x, 0, 0), (0, y, 0), (0, -y, 0), (0, 0, z), (0, 0, -z)]
    faces = [(0, 2, 4), (2, 1, 4), (1, 3, 4), (3, 0, 4), (2, 0, 5), (1, 2, 5), (3, 1, 5), (0, 3, 5)]
    return torch.tensor(points).double(), torch.tensor(faces)


def test_outline_of_an_octahedron():
    """From the front a rhombus |x| / 1 + |y| / 0.5 = 1: 1 to the right, 1/2 up, 1 / (3 / sqrt 2) diagonally."""
    points, faces = octahedron(y=0.5)
    found = outlines(points[None], edges(faces), [(0.0, 0.0)], rays=8)[0, 0]
    diagonal = math.sqrt(2) / 3
    torch.testing.assert_close(found[:5], torch.tensor([1, diagonal, 0.5, diagonal, 1]).double())


def bumpy(seed=0):
    points, faces = icosphere(1)
    basis = harmonics(points, 4)
    size = torch.randn(basis.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return points * (0.1 * (basis @ size)).exp()[:, None], faces


@pytest.mark.parametrize("seed", range(3))
def test_outlines_and_faces_give_the_same_silhouettes(seed):
    points, faces = bumpy(seed)
    by_face = silhouettes(points, faces, ROUND, 64, tau=0.001) > 0.5
    by_ray = filled(outlines(points[None], edges(faces), ROUND, rays=720), 64, tau=0.001)[0] > 0.5
    assert float((by_face != by_ray).float().mean()) < 0.002
    coarse = filled(outlines(points[None], edges(faces), ROUND), 64)[0] > 0.5
    assert float(overlap(coarse.double(), by_face.double()).min()) > 0.98


def test_pictures_are_the_right_way_up():
    """A solid that is wide on top: more pixels in the upper half; one that reaches to the right: right half."""
    points, faces = icosphere(1)
    for axis, half in ((1, slice(0, 16)), (0, None)):
        shaped = points * (0.5 * points[:, axis : axis + 1]).exp()
        picture = silhouettes(shaped, faces, [(0.0, 0.0)], 32)[0]
        part = picture[half] if half else picture[:, 16:]
        assert float(part.sum()) > 0.55 * float(picture.sum())


@pytest.mark.parametrize("render", ["rays", "faces"])
def test_gradient_is_that_of_finite_differences(render):
    points, faces = bumpy(1)
    weight = torch.randn(2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    radius = points.norm(dim=1)

    def value(radius):
        solid = points / points.norm(dim=1, keepdim=True) * radius[:, None]
        if render == "faces":
            pictures = silhouettes(solid, faces, ROUND[1:], 16, tau=0.1)
        else:
            pictures = filled(outlines(solid[None], edges(faces), ROUND[1:]), 16, tau=0.1)[0]
        return (weight * pictures).sum()

    direction = torch.randn(len(radius), dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    leaf = radius.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    step = 1e-6
    expected = (value(radius + step * direction) - value(radius - step * direction)) / (2 * step)
    assert float(gradient @ direction) == pytest.approx(float(expected), rel=1e-4)


def test_roughness_of_an_octahedron():
    """Neighbours of a tip are the four of the equator, mean 0: |v|^2 = 1 at every vertex of the regular one."""
    points, faces = octahedron()
    assert float(roughness(points, edges(faces))) == pytest.approx(1)
    assert float(roughness(2 * points, edges(faces))) == pytest.approx(4)


def test_overlap_and_sheet():
    a, b = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    a[0, :2], b[0, 1:3] = 1, 1
    assert overlap(a, b).tolist() == pytest.approx([1 / 3, 1])
    found = sheet(torch.stack([a, b]))
    assert found.shape == (2, 3, 4, 8)
    assert torch.equal(found[0, 2, :, 4:], a[1]) and torch.equal(found[1, 0, :, :4], b[0])


def test_solids_are_watertight_and_files_keep_them(tmp_path):
    """The volume of trimesh is that of the tetrahedra to the origin; a face turned round is found."""
    pytest.importorskip("trimesh")
    from saccade.policies.shape.files import check_mesh, read_mesh, write_mesh

    points, faces = bumpy(2)
    mesh = Mesh(points.numpy().astype(np.float32), faces.numpy())
    a, b, c = (points[faces[:, k]] for k in range(3))
    volume = float((torch.linalg.cross(a, b) * c).sum() / 6)
    found = check_mesh(mesh)
    assert found.watertight and found.outward and found.volume == pytest.approx(volume, rel=1e-4)
    for suffix in (".ply", ".stl", ".glb", ".obj"):
        write_mesh(mesh, tmp_path / f"solid{suffix}")
        back = read_mesh(tmp_path / f"solid{suffix}")
        assert len(back.faces) == len(faces) and check_mesh(back).volume == pytest.approx(volume, rel=1e-3)
    open_one = Mesh(mesh.vertices, mesh.faces[1:])
    assert not check_mesh(open_one).watertight
