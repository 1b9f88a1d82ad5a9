"""Losses per token between a target and the student, in nats, one family a file; `catalogue.py` lists them by name."""
