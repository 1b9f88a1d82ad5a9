"""Hold what was written to the model it was written from: greedy tokens, logits, what rounding costs, and times in turns."""
