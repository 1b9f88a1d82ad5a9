"""Losses that bring heads of their own, and read what a net makes of other views; the heads go with the training."""
