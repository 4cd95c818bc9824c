"""Protocols, scores, comparisons, reports."""
