"""Remove feed-forward channels and KV groups."""
