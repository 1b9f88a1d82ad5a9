"""Make the residual stream of a model narrower: fewer of its channels, or fewer of its principal directions."""
