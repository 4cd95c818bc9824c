"""From raw e-commerce records to instruction instances (does not import jax)."""
