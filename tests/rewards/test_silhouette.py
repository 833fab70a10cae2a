"""Solids judged by their views: overlaps, a prior's distance, and a model learned from rankings."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saccade.core.content import Mesh, Text
from saccade.core.errors import ConfigError, DataError
from saccade.core.meshes import sheet
from saccade.core.trajectory import Prompt, Trajectory, forced_turn
from saccade.envs.shapes3d import Solids
from saccade.rewards.silhouette import HIDDEN, Roughness, SilhouetteOverlap, ViewsModel, ViewsPrior, ViewsScore, apart

SOLIDS = Solids()
SMALL = ViewsModel(tasks=SOLIDS, rankings=96, steps=60, channels=8, batch=16)


def shown(task, output=None):
    return Trajectory(Prompt(task, task.prompt), [forced_turn(task.gold[0] if output is None else output, None, 1)])


def picture(task):
    views = np.stack([image.pixels[..., 0] for image in task.gold[0][1:]])
    return sheet(torch.from_numpy(views)[None].float() / 255)


def test_overlap_is_one_for_the_right_solid_and_less_for_others():
    reward = SilhouetteOverlap()
    assert reward.score(shown(SOLIDS[0])) == 1
    assert 0 < reward.score(shown(SOLIDS[0], SOLIDS[1].gold[0])) < 1


def test_overlap_of_balls_is_the_ratio_of_their_areas():
    """Half the radius, a quarter of the area, in every view."""
    task = SOLIDS[0]
    directions = task.target.vertices / np.linalg.norm(task.target.vertices, axis=1, keepdims=True)
    large, small = (Mesh((r * directions).astype(np.float32), task.target.faces) for r in (1.2, 0.6))
    found = SilhouetteOverlap(side=96).score(shown(replace(task, target=large), (small,)))
    assert found == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(
    "output",
    [
        (Text("a ball"),),
        (),
        (SOLIDS[0].target, SOLIDS[0].target),
        (Mesh(np.full((3, 3), np.nan, np.float32), np.array([[0, 1, 2]])),),
        (Mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 7]])),),
        (Mesh(np.zeros((3, 3), np.float32), np.zeros((0, 3), np.int64)),),
        (Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64)),),
    ],
)
def test_what_is_no_mesh_overlaps_with_nothing(output):
    assert SilhouetteOverlap().score(shown(SOLIDS[0], output)) == 0
    assert Roughness().score(shown(SOLIDS[0], output)) is None


def test_views_are_taken_apart_as_they_were_put_together():
    views = torch.rand(2, 4, 8, 8)
    torch.testing.assert_close(apart(sheet(views)), views)
    with pytest.raises(DataError, match="squares"):
        apart(torch.zeros(1, 3, 8, 12))


def test_prior_expects_the_mean_of_all_solids_with_the_first_words():
    """Two pictures a and b under the same words: the distance of a to their mean is |a - b|^2 / 4."""
    task = SOLIDS[0]
    same = task.prompt[0].text.split()[:2]
    seen = [picture(each)[0, 0] for each in SOLIDS if each.prompt[0].text.split()[:2] == same]
    expected = -((picture(task)[0, 0] - torch.stack(seen).mean(0)) ** 2).mean()
    prior = ViewsPrior(tasks=SOLIDS)
    (found,) = prior([shown(task)])
    assert len(seen) > 5 and found.value == pytest.approx(float(expected), rel=1e-4)
    images = picture(task).requires_grad_()
    prior.differentiable(images, [shown(task).prompt]).sum().backward()
    assert bool(images.grad.abs().sum() > 0)
    with pytest.raises(DataError, match="a ball"):
        odd = replace(task, prompt=(Text("a ball of clay"),))
        prior.differentiable(picture(task), [Prompt(odd, odd.prompt)])


def test_scores_with_and_without_gradient_agree_and_depend_on_the_views_seen():
    reward = ViewsScore(model=SMALL)
    tasks = SOLIDS[:3]
    found = [score.value for score in reward([shown(task) for task in tasks])]
    images = torch.cat([picture(task) for task in tasks]).requires_grad_()
    prompts = [shown(task).prompt for task in tasks]
    direct = reward.differentiable(images, prompts)
    assert found == pytest.approx(direct.tolist(), abs=1e-5)
    direct.sum().backward()
    assert all(bool(part.abs().sum() > 0) for part in images.grad.split(32, 3))
    front = ViewsScore(model=replace(SMALL, sees=(0,)))
    images.grad = None
    front.differentiable(images, prompts).sum().backward()
    assert [bool(part.abs().sum() > 0) for part in images.grad.split(32, 3)] == [True, False, False, False]
    assert reward([shown(SOLIDS[0], (Text("none"),))])[0].value is None


def test_model_orders_solids_of_captions_it_has_never_read_and_is_standardised():
    model, annotator = SMALL.accuracy(SOLIDS.split("test"), 64)
    assert 0.68 < model < annotator <= 1
    assert float(SMALL.network().std) > 0 and HIDDEN


def test_settings_out_of_range_are_refused():
    for settings in ({"ranked": 1}, {"temperature": 0.0}, {"sees": ()}, {"sees": (1, 1)}):
        with pytest.raises(ConfigError):
            replace(SMALL, **settings)
    with pytest.raises(ConfigError):
        ViewsPrior(tasks=SOLIDS, known=-1)
    with pytest.raises(ConfigError):
        SilhouetteOverlap(views=())
