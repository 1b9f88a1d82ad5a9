"""Take channels and heads out of image classifiers, as far as the family's config can say what is left."""
