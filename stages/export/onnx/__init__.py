"""The ONNX form: a graph with a KV cache."""
