"""Losses between vectors of texts: toward a teacher's, between the two texts of a row, between views of a question."""
