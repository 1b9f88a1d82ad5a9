"""Models that read examples: the student, and whatever teaches it."""
