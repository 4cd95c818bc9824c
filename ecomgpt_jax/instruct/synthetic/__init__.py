"""The embedded default source: a seeded catalogue in English and Chinese that needs no download."""
