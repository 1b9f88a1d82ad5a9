"""Losses that read an image classifier beyond its distributions: what it makes of other views, and heads beside it."""
