"""Remove decoder blocks."""
