"""Measure one model: quality, size and speed."""
