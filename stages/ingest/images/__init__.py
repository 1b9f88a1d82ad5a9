"""Images as they come in: data sets with their classes."""
