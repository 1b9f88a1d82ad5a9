"""Artifact handles and the content-addressed store."""
