"""Optimizer, train step, checkpoints, loop."""
