"""Environments: tasks played turn by turn."""
