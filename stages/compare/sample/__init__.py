"""Draw images from a denoiser, and measure them."""
