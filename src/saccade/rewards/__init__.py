"""Rewards: trajectories in, scores out. Each module is imported by the name of what it verifies."""
