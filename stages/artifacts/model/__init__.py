"""A model's folder: read whole or refused, written so that others read it."""
