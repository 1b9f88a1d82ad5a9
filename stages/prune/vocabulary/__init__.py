"""Cut a model's vocabulary down to what a corpus needs."""
