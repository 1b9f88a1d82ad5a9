"""Fold adapters and combine models."""
