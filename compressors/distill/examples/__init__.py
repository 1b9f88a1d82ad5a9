"""Rows as training examples: packing, chunks and contexts."""
