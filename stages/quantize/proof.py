"""Prove that a quantized graph computes with the numbers its integers stand for. onnxruntime reads it from its folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.measure.same_logits import (
    NUM_DECODED_TOKENS,
    OTHER_CODES,
    OTHER_ORDER,
    decoded_difference,
    difference,
    probe_ids,
)
from attar.stages.artifacts.onnx_folder import read_graph, write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.quantize.graph import QuantizedGraph
from attar.stages.runtime.progress import metric, note


def prove_graph(
    quantized: QuantizedGraph, float_nodes: Sequence[str], content: Path, scratch: Path, vocab_size: int
) -> None:
    """Compare the written graph with the float graph that holds the rounded numbers, and decode by it. They are in memory in turn.

    The products' own rounding of what they read is switched off for it, so that float32's tolerance holds. Raises ValueError otherwise.
    """
    from attar.compressors.quantize.nodes import set_float_inputs  # its library is in an extra

    scratch.mkdir(exist_ok=True)
    write_graph(quantized.dequantized(float_nodes), scratch)
    expected = _logits(open_session(scratch, is_frugal=True), vocab_size)
    shutil.rmtree(scratch)
    graph = read_graph(content)
    set_float_inputs(graph.graph)
    session = open_session(content, graph=_serialized(graph), is_frugal=True)
    runner = OnnxRunner(session)
    error, cached = difference(expected, _logits(session, vocab_size)), decoded_difference(runner, vocab_size)
    metric("proof_rounded_error", error)
    metric("proof_cache_error", cached)
    allowed = OTHER_CODES if torch.int8 in runner.dtypes else OTHER_ORDER[torch.float32]
    if not error <= allowed:
        raise ValueError(
            f"quantize: the written graph computes otherwise than with the numbers that its integers stand for, {error:.2g} of the largest "
            f"logit apart (allowed {allowed:g})"
        )
    if not cached <= allowed:
        raise ValueError(
            f"quantize: the written graph decodes otherwise with a KV cache than without, {cached:.2g} of the largest logit apart "
            f"(allowed {allowed:g})"
        )
    note(
        f"proved: the written graph computes with the rounded numbers, logits to {error:.1e} of the largest, and {NUM_DECODED_TOKENS} "
        "tokens are the same with and without a cache"
    )


def _logits(session: Any, vocab_size: int) -> Tensor:
    runner, ids = OnnxRunner(session), probe_ids(vocab_size)
    return runner.forward(ids, torch.ones_like(ids), None, last_only=False)[0].clone()


def _serialized(graph: Any) -> bytes:
    import onnx_ir as ir  # in an extra

    return ir.to_proto(graph).SerializeToString()
