"""Remove or merge the experts of mixtures."""
