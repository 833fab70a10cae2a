"""Saccade: reinforcement learning for models that see, draw and act.

The public names are loaded on first use, so that the command line can answer without waiting for torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "saccade.core.content": ("Array", "Content", "Image", "Mesh", "Text", "Video"),
    "saccade.core.trajectory": ("Context", "Group", "Observation", "Prompt", "Task", "Trajectory", "Turn"),
    "saccade.core.batch": ("Batch", "pack"),
    "saccade.core.policy": ("Act", "LogProbs", "Need", "Policy", "PolicySpec", "Sampling"),
    "saccade.core.environment": ("Environment", "EnvironmentSpec", "Step", "Tasks"),
    "saccade.core.reward": ("Reward", "SampleReward", "Score"),
    "saccade.core.advantage": ("Advantage",),
    "saccade.core.objective": ("Loss", "Objective"),
    "saccade.core.feed": ("Feed", "Problem"),
    "saccade.core.metric": ("Estimate", "Metric"),
    "saccade.core.errors": ("CapabilityError", "ConfigError", "ContractError", "DataError", "SaccadeError"),
    "saccade.recipe": ("Ablation", "Evaluation", "Recipe", "Stage", "Train", "recipe"),
    "saccade.learn.loop": ("Run", "train"),
    "saccade.evaluate.run": ("evaluate",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'saccade' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
