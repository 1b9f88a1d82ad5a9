"""Image classifiers: pixels in, a logit a class out, in torch and as graphs."""
