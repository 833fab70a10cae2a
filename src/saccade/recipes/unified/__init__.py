"""Recipes for policies that both see and draw."""
