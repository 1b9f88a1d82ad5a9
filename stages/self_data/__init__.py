"""The original model rewrites the training answers."""
