"""Open an exported graph in ONNX Runtime, on the provider that was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from compressors.guidance.graph import SCALE_NAME

GRAPH = "model.onnx"


def open_session(folder: Path, provider: str = "CPUExecutionProvider", *, is_guided: bool = False) -> Any:
    """Return a session with as many threads as torch uses here. The runner checks that it really is on `provider`.

    Raises ValueError for a graph that wants a guidance scale where none is given.
    """
    import onnxruntime  # in an extra, cpu or gpu

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch's threads want the cores too
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / GRAPH, options, providers=[provider])
    if not is_guided and any(entry.name == SCALE_NAME for entry in session.get_inputs()):
        raise ValueError(
            f"the graph wants {SCALE_NAME} as an input, which this stage does not set; export without guidance"
        )
    return session
