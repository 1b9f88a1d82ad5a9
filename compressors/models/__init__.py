"""What every other room asks of a model: blocks, attention, decoding, likelihood."""
