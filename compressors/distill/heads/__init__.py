"""Losses that bring heads of their own, and read what a net makes of other views. The heads go with the training."""
