"""Write a model as a folder of packed 8 or 4 bit weights (compressed-tensors), which vLLM, SGLang and transformers open."""
