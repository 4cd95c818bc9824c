"""BLOOM in Flax: model, attention, loss head, Hugging Face weights."""
