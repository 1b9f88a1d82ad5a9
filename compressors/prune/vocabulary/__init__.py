"""Cut the vocabulary: which tokens stay, the tokenizer without the others, and the rows of embedding and head."""
