"""Saccade: reinforcement learning for models that see, draw and act."""

__version__ = "0.1.0"
