"""Images as they come in. Data sets with their classes, classifiers and denoisers."""
