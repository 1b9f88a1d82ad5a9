"""Decide whether an answer says the same as its reference."""
