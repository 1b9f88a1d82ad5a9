"""Find, score and remove decoder blocks, and the feed-forward channels and KV heads inside them."""
