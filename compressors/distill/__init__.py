"""Losses per token, their one reduction, packing and the training loop."""
