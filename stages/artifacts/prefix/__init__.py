"""Vectors before the prompt: a folder of them, and what they are worth."""
