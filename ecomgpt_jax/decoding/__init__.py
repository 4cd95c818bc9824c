"""Decoding: greedy, beam search, continuous batching, constrained answers."""
