"""Readers: one module per family of raw formats, each yielding typed records."""
