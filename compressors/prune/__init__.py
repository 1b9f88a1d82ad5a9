"""Find, score and remove decoder blocks."""
