"""Open an exported graph in ONNX Runtime, on the provider that was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

GRAPH = "model.onnx"


def open_session(folder: Path, provider: str = "CPUExecutionProvider") -> Any:
    """Return a session with as many threads as torch uses here. The runner checks that it really is on `provider`."""
    import onnxruntime  # in an extra, cpu or gpu

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch's threads want the cores too
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(folder / GRAPH, options, providers=[provider])
