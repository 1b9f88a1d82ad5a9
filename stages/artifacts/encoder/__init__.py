"""Folders of sentence encoders, as sentence-transformers lays them out."""
