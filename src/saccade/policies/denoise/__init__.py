"""Policies that draw: the denoising chain of a diffusion or flow model is their trajectory."""
