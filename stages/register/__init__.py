"""Put a model into the registry with its card and figures."""
