"""ONNX graphs with a KV cache, the runner for them, and parity."""
