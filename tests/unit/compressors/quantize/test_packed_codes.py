"""Packed integers of AWQ and GPTQ against packers written from their papers' code, code by code."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.quantize.packed_codes import awq_weight, gptq_weight
from tests.packed_models import awq_packed, gptq_packed

NUM_OUTPUTS, NUM_INPUTS, GROUP = 16, 64, 32


def codes(bits: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(2**bits, shape, generator=torch.Generator().manual_seed(seed))


def scales(num_groups: int, num_outputs: int) -> torch.Tensor:
    return (0.01 + torch.rand(num_groups, num_outputs, generator=torch.Generator().manual_seed(9))).half()


def expected(values: torch.Tensor, zeros: torch.Tensor, steps: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Value by value, as the definition says it: (code - zero point) * scale; inputs by rows."""
    weight = torch.empty(values.shape[1], values.shape[0])
    for channel in range(values.shape[0]):
        group = int(groups[channel])
        for output in range(values.shape[1]):
            difference = int(values[channel, output]) - int(zeros[group, output])
            weight[output, channel] = difference * float(steps[group, output])
    return weight


def test_awq_codes_lie_over_output_channels_in_the_kernels_order() -> None:
    values, zeros = codes(4, NUM_INPUTS, NUM_OUTPUTS), codes(4, NUM_INPUTS // GROUP, NUM_OUTPUTS, seed=1)
    steps, groups = scales(NUM_INPUTS // GROUP, NUM_OUTPUTS), torch.arange(NUM_INPUTS) // GROUP
    weight = awq_weight(awq_packed(values), awq_packed(zeros), steps)
    torch.testing.assert_close(weight, expected(values, zeros, steps, groups), rtol=0, atol=0)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros_lack_one", [True, False])
def test_gptq_codes_lie_over_input_channels_and_channels_name_their_group(bits: int, zeros_lack_one: bool) -> None:
    values, zeros = codes(bits, NUM_INPUTS, NUM_OUTPUTS), codes(bits, NUM_INPUTS // GROUP, NUM_OUTPUTS, seed=1)
    steps = scales(NUM_INPUTS // GROUP, NUM_OUTPUTS)
    groups = (torch.arange(NUM_INPUTS) // GROUP)[torch.randperm(NUM_INPUTS, generator=torch.Generator().manual_seed(3))]
    stored = (zeros - 1) % 2**bits if zeros_lack_one else zeros
    packed = gptq_packed(values.T, bits).T, gptq_packed(stored, bits)
    weight = gptq_weight(*packed, steps, groups.int(), bits=bits, zeros_lack_one=zeros_lack_one)
    torch.testing.assert_close(weight, expected(values, zeros, steps, groups), rtol=0, atol=0)
    other = gptq_weight(*packed, steps, groups.int(), bits=bits, zeros_lack_one=not zeros_lack_one)
    assert not torch.equal(other, weight), "the two forms are one code apart"
