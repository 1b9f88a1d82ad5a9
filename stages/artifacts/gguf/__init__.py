"""GGUF files: one file with weights, sizes and tokenizer, as llama.cpp reads it."""
