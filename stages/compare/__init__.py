"""Measure students beside their original on the same inputs."""
