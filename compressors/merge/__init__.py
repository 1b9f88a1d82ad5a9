"""Fold adapters into weights and combine models."""
