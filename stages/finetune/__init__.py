"""Heal a student: rows, teachers, objectives, one training run."""
