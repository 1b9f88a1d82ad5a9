"""Training text: prompts, filters, rewrites, and verifiers of answers."""
