"""The models in Flax: families, attention, loss head, import and export of weights."""
