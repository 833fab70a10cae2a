"""Multimodal language models."""
