"""Task specifications by family."""
