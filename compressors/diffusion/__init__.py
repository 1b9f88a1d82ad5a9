"""Diffusion on images: noise, what a net predicts of it, samplers, and what compares their images."""
