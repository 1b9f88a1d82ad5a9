"""Classifier-free guidance learned into small adapters."""
