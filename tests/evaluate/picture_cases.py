"""Pictures, groups of them and simple features, for tests of metrics that look at pictures."""

import importlib
import importlib.util
import sys
from dataclasses import dataclass

import numpy as np
import torch

from letters import Letters
from saccade.core.content import Image, Text
from saccade.core.environment import Tasks
from saccade.core.metric import Models
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.rewards.features import Features

MODELS = Models(Letters().build(torch.device("cpu")))
"""Metrics of pictures never look into models."""


@dataclass(frozen=True)
class Corners(Features):
    """The upper left pixel."""

    @property
    def name(self):
        return "corners"

    def __call__(self, images):
        return np.stack([image.pixels[0, 0] for image in images]).astype(np.float64)


@dataclass(frozen=True)
class Colours(Tasks):
    """One pixel of a random colour each."""

    count: int = 40
    offset: int = 0

    def __len__(self):
        return self.count

    def task(self, index):
        pixel = np.random.default_rng(index).integers(0, 200, (1, 1, 3)) + self.offset
        return Task(f"c/{index}", (Text("a colour"),), gold=((Image(pixel.astype(np.uint8)),),))

    def split(self, name):
        return self


def group(*outputs, task="t", **info):
    prompt = Prompt(Task(task, (Text("?"),), info=info), (Text("?"),))
    parts = [Text(one) if isinstance(one, str) else Image(one) for one in outputs]
    return [Trajectory(prompt, [forced_turn((part,), None, 1)]) for part in parts]


def golds(tasks):
    return [group(task.gold[0][0].pixels, task=task.id) for task in tasks]


def plain(value, side=2):
    return np.full((side, side, 3), value, dtype=np.uint8)


def usable_torchvision():
    """Import torchvision where it is installed: torchmetrics and lpips do, and fail beside a torch of another build.

    There its compiled operators are declared, and stay without an implementation.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "nms" not in str(error):
            raise
    else:
        return
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    module = importlib.import_module("torchvision")
    module.declared = library  # declarations go with the object that made them
