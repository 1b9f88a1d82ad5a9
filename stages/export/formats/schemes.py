"""Schemes by the field's names (W4A16, ...). Bits of weights (W) and inputs (A) of a product, and the layout of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SchemeName = Literal["W4A16", "W8A16", "W8A8", "FP8"]


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How products hold their weights and read their inputs. `multiple`: what both sides of a matrix must be a multiple of."""

    bits: int
    # the layout's name in the folder's config
    layout: str
    is_grouped: bool = False
    is_float: bool = False
    rounds_inputs: bool = False
    multiple: int = 1


# cutlass' products of 8 bit numbers, which vLLM and SGLang call, want multiples of 16
SCHEMES: dict[str, Scheme] = {
    "W4A16": Scheme(bits=4, layout="pack-quantized", is_grouped=True, multiple=8),
    "W8A16": Scheme(bits=8, layout="pack-quantized", multiple=4),
    "W8A8": Scheme(bits=8, layout="int-quantized", rounds_inputs=True, multiple=16),
    "FP8": Scheme(bits=8, layout="float-quantized", is_float=True, rounds_inputs=True, multiple=16),
}
