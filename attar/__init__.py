"""Attar: compress models as an operated pipeline."""
