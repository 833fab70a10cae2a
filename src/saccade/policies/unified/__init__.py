"""Policies that read and write both text and pictures, as tokens of one joint vocabulary."""
