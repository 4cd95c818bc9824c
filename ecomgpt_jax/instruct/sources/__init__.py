"""Readers: one module a raw format family, each yielding typed records."""
