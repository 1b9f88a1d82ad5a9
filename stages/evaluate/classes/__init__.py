"""Evaluations of classifiers: of texts, of pairs of texts, of words."""
