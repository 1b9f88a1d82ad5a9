"""Rows of different lengths in one pass of a torch model, and drafts, which such passes make cheap."""
