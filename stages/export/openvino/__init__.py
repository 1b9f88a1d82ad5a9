"""The OpenVINO form: a folder in which the cache is inside the model."""
