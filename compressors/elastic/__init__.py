"""One network that holds many. Sub-networks of fewer blocks, less width, fewer heads and channels share its weights."""
