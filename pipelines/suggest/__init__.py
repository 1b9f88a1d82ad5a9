"""Suggest recipes from what past runs in the store measured."""
