"""Detectors of reward hacking and of failing training: they look at a run's history and give verdicts with evidence."""
