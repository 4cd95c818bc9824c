"""From raw e-commerce records to instruction instances (no jax in here)."""
