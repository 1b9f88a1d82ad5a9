"""The GGUF form: one file for llama.cpp, Ollama and LM Studio."""
