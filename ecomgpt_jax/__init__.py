"""EcomGPT in JAX: instruction tuning of BLOOM(Z) for e-commerce (arXiv 2308.06966)."""

__version__ = "0.1.0"
