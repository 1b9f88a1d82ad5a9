"""What a stored matrix stands for: ggml's types to the bit as its own package writes them, blocks as the graph's writer does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from attar.compressors.quantize.blocks import Grid
from attar.compressors.quantize.methods import RoundToNearest
from attar.compressors.quantize.roundings import BlockIntegers, GgmlQ4, GgmlQ8, Rounding


def weights(scale: float = 0.05) -> torch.Tensor:
    matrix = torch.randn(24, 96, generator=torch.Generator().manual_seed(0)) * scale
    matrix[3, 32:64] = 0.0  # a block of nothing
    return matrix


@pytest.mark.parametrize(
    ("rounding", "kind"), [(GgmlQ4(), GGMLQuantizationType.Q4_0), (GgmlQ8(), GGMLQuantizationType.Q8_0)]
)
@pytest.mark.parametrize("scale", [0.05, 30.0])
def test_ggml_types_are_what_its_package_writes(rounding: Rounding, kind: GGMLQuantizationType, scale: float) -> None:
    matrix = weights(scale)
    expected = dequantize(quantize(matrix.numpy().astype(np.float32), kind), kind)
    assert torch.equal(rounding(matrix), torch.from_numpy(expected))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_are_the_graphs(symmetric: bool, bits: int) -> None:
    matrix = weights()
    grid = Grid(bits=bits, is_symmetric=symmetric)
    expected = RoundToNearest()(matrix, None, grid, 32).dequantized()
    rounded = BlockIntegers(bits=bits, block_size=128, symmetric=symmetric)(matrix)  # 96 channels: blocks of 32
    assert torch.equal(rounded, expected)
    assert float((rounded - matrix).abs().max()) < 0.05


def test_refused() -> None:
    with pytest.raises(ValueError, match=r"^bits is 3; accepted: 4 or 8$"):
        BlockIntegers(bits=3)
    with pytest.raises(ValueError, match=r"^block_size is 48; accepted: 16, 32, 64, 128$"):
        BlockIntegers(block_size=48)
    with pytest.raises(ValueError, match=r"^24 channels are not whole blocks of 32$"):
        GgmlQ4()(torch.zeros(2, 24))
    with pytest.raises(ValueError, match=r"^24 channels are not whole blocks of 16 to 32$"):
        BlockIntegers()(torch.zeros(2, 24))
