"""Types of a GGUF tensor's numbers: what they are called, how wide they are, and which rows they take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class ElementType:
    """A type by the names of gguf-py: of a tensor, and of a file most of whose tensors have it. Bits a number, its scale included."""

    tensor_name: str
    file_name: str
    bits: float
    # numbers that share a scale: rows are whole blocks
    block: int = 32
    # what a matrix is in whose rows are not whole blocks, as llama.cpp has it
    fallback: str = "f16"
    # whether a runtime that computes in it writes the same greedy text as torch does with the same weights
    is_near_float: bool = False
    # whether the importance of columns changes what is written
    heeds_importance: bool = False

    @property
    def needs_library(self) -> bool:
        """Whether llama.cpp alone rounds to it."""
        return self.block > 32


ELEMENT_TYPES: dict[str, ElementType] = {
    "f32": ElementType("F32", "ALL_F32", 32.0, block=1, is_near_float=True),
    "f16": ElementType("F16", "MOSTLY_F16", 16.0, block=1, is_near_float=True),
    "bf16": ElementType("BF16", "MOSTLY_BF16", 16.0, block=1, is_near_float=True),
    "q8_0": ElementType("Q8_0", "MOSTLY_Q8_0", 8.5, is_near_float=True),
    "q6_k": ElementType("Q6_K", "MOSTLY_Q6_K", 6.5625, block=256, fallback="q8_0", heeds_importance=True),
    "q5_1": ElementType("Q5_1", "MOSTLY_Q5_1", 6.0, heeds_importance=True),
    "q5_k": ElementType("Q5_K", "MOSTLY_Q5_K_S", 5.5, block=256, fallback="q5_1", heeds_importance=True),
    "q5_0": ElementType("Q5_0", "MOSTLY_Q5_0", 5.5, heeds_importance=True),
    "q4_1": ElementType("Q4_1", "MOSTLY_Q4_1", 5.0, heeds_importance=True),
    "q4_k": ElementType("Q4_K", "MOSTLY_Q4_K_S", 4.5, block=256, fallback="q5_0", heeds_importance=True),
    "q4_0": ElementType("Q4_0", "MOSTLY_Q4_0", 4.5, heeds_importance=True),
    "mxfp4": ElementType("MXFP4", "MOSTLY_MXFP4_MOE", 4.25),
    "q3_k": ElementType("Q3_K", "MOSTLY_Q3_K_S", 3.4375, block=256, fallback="q4_0", heeds_importance=True),
    "q2_k": ElementType("Q2_K", "MOSTLY_Q2_K", 2.625, block=256, fallback="q4_0", heeds_importance=True),
}


def fitting_type(wanted: str, row_width: int) -> str:
    """Return the type that a matrix gets whose rows are so wide."""
    kind = ELEMENT_TYPES[wanted]
    return fitting_type(kind.fallback, row_width) if row_width % kind.block else wanted


def tensor_type(name: str) -> Any:
    """Return gguf-py's own type of a tensor."""
    from gguf import GGMLQuantizationType  # in an extra

    return GGMLQuantizationType[ELEMENT_TYPES[name].tensor_name]


def file_type(name: str) -> int:
    """Return llama.cpp's number of a file most of whose tensors are of a type."""
    from gguf import LlamaFileType  # in an extra

    return int(LlamaFileType[ELEMENT_TYPES[name].file_name])


def num_bytes(shape: tuple[int, ...], name: str) -> int:
    """Return the bytes of a tensor."""
    return int(math.prod(shape) * ELEMENT_TYPES[name].bits) // 8


def row_bytes(row_width: int, name: str) -> int:
    """Return the bytes of a row."""
    return num_bytes((row_width,), name)


def packed(rows: Tensor, name: str) -> np.ndarray:
    """Return rows of numbers as the bytes of a type. They are rounded from float32 by gguf-py; halves beyond the range are refused.

    Raises ValueError for numbers that a half cannot hold: it would make infinities of them.
    """
    import torch  # a recipe reads the table alone
    from gguf import quants  # in an extra

    if name == "f32":
        return rows.float().numpy()
    if name == "f16":
        halves = rows.half()
        if not bool(torch.isfinite(halves).all()):
            raise ValueError("f16 cannot hold numbers past 65504, which the model has; accepted: weights bf16 or f32")
        return halves.numpy()
    if name == "bf16":  # torch's own: gguf-py's rounds alike and takes three times as long
        return rows.bfloat16().view(torch.int16).numpy()
    return quants.quantize(rows.float().numpy(), tensor_type(name))


def unpacked(content: np.ndarray, kind: Any) -> Tensor:
    """Return the float32 numbers of bytes that gguf-py's reader gives, of any type that it can decode."""
    import torch  # as above
    from gguf import quants  # in an extra

    numbers = quants.dequantize(content, kind)
    return torch.from_numpy(numbers if numbers.flags.writeable else numbers.copy())
