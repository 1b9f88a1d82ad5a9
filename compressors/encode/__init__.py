"""Sentence encoders: texts in, vectors out, in torch and as graphs."""
