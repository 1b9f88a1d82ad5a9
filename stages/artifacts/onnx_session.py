"""Open an exported graph in ONNX Runtime, on the provider that was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from attar.compressors.export.runtime import CPU
from attar.compressors.guidance.graph import SCALE_NAME
from attar.stages.runtime.progress import note

GRAPH = "model.onnx"


def open_session(
    folder: Path,
    provider: str = CPU,
    graph: bytes | None = None,
    *,
    is_guided: bool = False,
    is_frugal: bool = False,
) -> Any:
    """Return a session with as many threads as torch uses here. The runner checks that it really is on `provider`.

    `graph`: a graph to run on the weights that lie in the folder, instead of the folder's own. `is_frugal`: give memory back after each
    run instead of keeping it for the next; for long texts beside much else.

    Raises ValueError when onnxruntime is not installed or lacks the provider, and, for others than the CPU, when a node would have to
    fall back to the CPU.
    """
    try:
        import onnxruntime  # in an extra, cpu or gpu
    except ImportError as error:
        raise ValueError("an ONNX graph needs onnxruntime: install attar[cpu] or attar[gpu]") from error
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise ValueError(f"provider {provider!r} is not in this onnxruntime; available: {', '.join(available)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_cpu_mem_arena = options.enable_mem_pattern = not is_frugal
    if provider != CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.log_severity_level = 3
    try:
        if graph is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        session = onnxruntime.InferenceSession(graph or folder / GRAPH, options, providers=[provider])
    except Exception as error:  # onnxruntime's own types live in a C extension
        raise ValueError(f"{folder / GRAPH} does not open on {provider}: {str(error).partition(chr(10))[0]}") from error
    if not is_guided and any(entry.name == SCALE_NAME for entry in session.get_inputs()):
        raise ValueError(
            f"the graph wants {SCALE_NAME} as an input, which this stage does not set; export without guidance"
        )
    note(f"onnxruntime on {provider}, {options.intra_op_num_threads} threads")
    return session
