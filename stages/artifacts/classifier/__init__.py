"""Folders of classifiers of texts, as transformers lays them out."""
