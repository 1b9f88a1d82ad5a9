"""Score, select, remove and patch decoder blocks."""
