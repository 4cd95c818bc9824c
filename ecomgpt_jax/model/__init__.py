"""The models in Flax: families, attention, loss head, weights in and out."""
