"""Open an exported graph in ONNX Runtime, on the provider that was meant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from attar.compressors.export.runtime import CPU
from attar.compressors.guidance.graph import SCALE_NAME
from attar.stages.runtime.progress import note

GRAPH = "model.onnx"
# Of ONNX' own nodes those that compute. Others, shapes above all, onnxruntime itself puts on the CPU beside a GPU; what is of its own
# domain (attention, integer products, experts) computes too.
COMPUTING = {
    *("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "Softmax", "LayerNormalization", "RMSNormalization"),
    *("Attention", "RotaryEmbedding", "MatMulInteger", "QLinearMatMul", "QLinearConv", "ConvInteger"),
}
RECORDED = "session.record_ep_graph_assignment_info"


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

    Raises ValueError when onnxruntime is not installed or lacks the provider or a kernel of the graph's types, and, for others than the CPU,
    when a node that computes fell back to the CPU.
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
        options.add_session_config_entry(RECORDED, "1")
    options.log_severity_level = 3
    try:
        if graph is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        session = onnxruntime.InferenceSession(graph or folder / GRAPH, options, providers=[provider])
    except Exception as error:  # onnxruntime's own types live in a C extension
        raise ValueError(f"{folder / GRAPH} does not open on {provider}: {_reason(error)}") from error
    if provider == session.get_providers()[0] != CPU:
        refuse_fallen(session, provider)
    if not is_guided and any(entry.name == SCALE_NAME for entry in session.get_inputs()):
        raise ValueError(
            f"the graph wants {SCALE_NAME} as an input, which this stage does not set; export without guidance"
        )
    note(f"onnxruntime on {provider}, {options.intra_op_num_threads} threads")
    return session


def refuse_fallen(session: Any, provider: str) -> None:
    """Raise ValueError where a node that computes runs elsewhere than on the provider.

    For want of a kernel, in silence, and slowly. The option that forbids the CPU altogether would forbid the shapes too, which
    onnxruntime puts there by itself.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise ValueError(
            f"provider is {provider!r}, and this onnxruntime does not tell which nodes run there; accepted: 1.32 or newer"
        )
    parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name != provider]
    kinds = {node.op_type for part in parts for node in part.get_nodes() if node.domain or node.op_type in COMPUTING}
    if kinds:
        raise ValueError(
            f"{provider} has no kernel for {', '.join(sorted(kinds))} in the graph's types, which would run on the CPU; accepted: a graph in "
            "float16 (export.format.precision), or another provider"
        )


def _reason(error: Exception) -> str:
    line = str(error).partition("\n")[0]
    kernel = re.search(r"Could not find an implementation for (\w+)", line)
    return line if kernel is None else f"it has no {kernel[1]} in the graph's types; a graph in bfloat16 is for GPUs"
