"""Modules that act and give log-probabilities: tokens, denoising steps, motor commands."""
