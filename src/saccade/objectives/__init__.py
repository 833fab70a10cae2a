"""Objectives: pure functions from a batch and current log-probabilities to a loss."""
