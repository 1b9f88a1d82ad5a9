"""Folders of classifiers of texts and of words, as transformers lays them out."""
