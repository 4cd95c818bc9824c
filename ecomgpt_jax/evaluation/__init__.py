"""Frozen prompts, scores, reports."""
