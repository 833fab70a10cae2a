"""Evaluation: metrics over rollouts of held-out tasks, in three tiers."""
