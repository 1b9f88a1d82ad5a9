"""Hold what was written to the model it was written from. Greedy tokens, logits, what rounding costs, and times in turns."""
