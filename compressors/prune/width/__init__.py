"""Score and cut feed-forward channels and KV groups."""
