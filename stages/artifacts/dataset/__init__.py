"""A data set's folder: rows, their prompts, and what teachers said about them."""
