"""Store a model's weights in fewer bits."""
