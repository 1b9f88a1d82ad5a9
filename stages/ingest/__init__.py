"""Bring models and data sets in."""
