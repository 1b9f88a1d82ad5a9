"""Integers for the convolutions and matrices of an image classifier's graph, as onnxruntime places them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from attar.compressors.images.session import PIXELS

# Products with weights.
PRODUCTS = ("Conv", "Gemm", "MatMul")


def with_static_ranges(
    graph: Path, batches: Iterable[Float[Tensor, "N C H W"]], written: Path, *, excluded: list[str]
) -> None:
    """Write the graph with weights of 7 bits by output channel and activations of 8, whose ranges these images give.

    Seven bits: on processors without VNNI the sums of two products of 8 bits do not fit into the 16 that they are added in.
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # in an extra

    with _quiet():
        quantize_static(
            str(graph),
            str(written),
            _Batches(batches),  # type: ignore[arg-type] - all that it asks of a reader
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=excluded,
        )


def with_dynamic_ranges(graph: Path, written: Path, *, excluded: list[str]) -> None:
    """Write the graph with weights of 7 bits by output channel, and activations quantized by tensor as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # in an extra

    with _quiet():
        quantize_dynamic(
            str(graph),
            str(written),
            op_types_to_quantize=list(PRODUCTS),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=excluded,
        )


class _Batches:
    """Hands batches out as onnxruntime's calibration asks for them."""

    def __init__(self, batches: Iterable[Float[Tensor, "N C H W"]]) -> None:
        self._left = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next input, None behind the last."""
        pixels = next(self._left, None)
        return None if pixels is None else {PIXELS: pixels.numpy()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence advice that was followed already: the graph is fused and has its shapes."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
