"""Evaluation of image classifiers: what is measured, and the figures made of it."""
