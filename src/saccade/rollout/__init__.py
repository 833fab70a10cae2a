"""Producing trajectories and scoring them."""
