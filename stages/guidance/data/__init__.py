"""Continuations drawn under guidance."""
