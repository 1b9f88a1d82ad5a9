"""Classifier-free guidance in one pass: the two-pass teacher, adapters conditioned on the guidance scale, what folds and what is exported."""
