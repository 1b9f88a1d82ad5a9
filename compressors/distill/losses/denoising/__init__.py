"""Losses of denoisers: from data, and those that teach a net to need fewer steps."""
