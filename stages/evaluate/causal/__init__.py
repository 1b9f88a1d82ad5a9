"""Evaluation of causal models: what a worker measures of one, and the report of all workers."""
