"""Recipes: read, checked whole, planned."""
