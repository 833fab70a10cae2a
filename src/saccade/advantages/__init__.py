"""Advantages: pure functions from the reward table to the advantage table."""
