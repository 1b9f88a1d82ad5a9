"""What is learned: examples, their facts and batches, and who writes them."""
