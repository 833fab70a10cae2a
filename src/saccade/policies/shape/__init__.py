"""Policies that put out solids: meshes and pictures of them."""
