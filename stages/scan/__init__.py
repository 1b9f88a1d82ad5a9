"""Score every window of decoder blocks."""
