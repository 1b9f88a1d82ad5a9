"""Vectors before the prompt in place of demonstrations: what is told, shown, refused and kept."""
