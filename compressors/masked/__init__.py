"""Causal models that fill masks. An answer's blocks are seen from both sides, and several tokens are written in one pass."""
