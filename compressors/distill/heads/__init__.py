"""Losses that bring heads of their own, which go with the training, and read what a net makes of other views."""
