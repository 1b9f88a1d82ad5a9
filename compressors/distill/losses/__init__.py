"""Objectives, and the one reduction that makes a number of their terms."""
