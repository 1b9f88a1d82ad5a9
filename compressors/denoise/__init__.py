"""Diffusion on small images: a denoiser to distil, its sampler, and guidance adapters as they were published."""
