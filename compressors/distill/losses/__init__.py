"""Objectives over views: divergences, targets, weights, one reduction."""
