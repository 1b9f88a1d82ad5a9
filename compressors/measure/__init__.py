"""Decode, score, count and time a model, whatever runs it."""
