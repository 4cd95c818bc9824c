"""Jitted greedy decoding."""
