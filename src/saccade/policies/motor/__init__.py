"""Policies that move: chunks of motor commands from pictures, numbers and an instruction."""
