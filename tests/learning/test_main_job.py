"""The main job and the general methods it stands for, at full length on held-out tasks."""

import pytest

from saccade import experiment
from saccade.cli.catalogue import catalogue

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def shared_stages(tmp_path_factory):
    """The warm-up is the same for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SACCADE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize(("name", "metric", "errors"), [
    ("grpo", "iou", 3.0), ("grpo", "accuracy", 3.0), ("dpo", "accuracy", 2.0), ("kto", "accuracy", 2.0),
    ("ppo", "accuracy", 2.0),
])  # fmt: skip
def test_held_out_metric_rises(name, metric, errors, tmp_path):
    outcome = experiment.run(catalogue()[name].make("tiny"), tmp_path / name, name=name)
    difference = outcome.after.against(outcome.before)[metric]
    assert difference.value > errors * difference.stderr
