"""Write a model as an ONNX graph with a KV cache."""
