"""Matrices of other tools' packed folders as plain numbers: AWQ's and GPTQ's integers, several in one of 32 bits."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

# AWQ's kernels read the eight codes of an integer in this order of output channels.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
GPTQ_BITS = (2, 4, 8)


def awq_weight(
    qweight: Int[Tensor, "K packed"], qzeros: Int[Tensor, "groups packed"], scales: Float[Tensor, "groups N"]
) -> Float[Tensor, "N K"]:
    """Return a matrix that AWQ packed for its GEMM kernel. Value = (code - zero point) * scale, 4 bits, packed over output channels.

    https://arxiv.org/abs/2306.00978; the layout is AutoAWQ's `version: gemm`.
    """
    codes, zeros = _awq_codes(qweight), _awq_codes(qzeros)
    group_size = len(codes) // len(scales)
    steps, middle = (part.repeat_interleave(group_size, dim=0) for part in (scales.float(), zeros.float()))
    return ((codes.float() - middle) * steps).T.contiguous()


def gptq_weight(
    qweight: Int[Tensor, "packed N"],
    qzeros: Int[Tensor, "groups packed"],
    scales: Float[Tensor, "groups N"],
    group_of: Int[Tensor, "K"],
    *,
    bits: int,
    zeros_lack_one: bool,
) -> Float[Tensor, "N K"]:
    """Return a matrix that GPTQ packed over input channels. Value = (code - zero point) * scale of the channel's group.

    `zeros_lack_one`: the first form of these files holds each zero point less one, the second as it is.
    https://arxiv.org/abs/2210.17323; the layout is AutoGPTQ's and GPTQModel's.
    """
    codes = _unpacked(qweight.T, bits).T
    zeros = _unpacked(qzeros, bits)
    if zeros_lack_one:
        zeros = (zeros + 1) & (2**bits - 1)  # the largest stands for the zero from which one was taken
    groups = group_of.long()
    return ((codes.float() - zeros[groups].float()) * scales.float()[groups]).T.contiguous()


def _awq_codes(packed: Int[Tensor, "R packed"]) -> Int[Tensor, "R C"]:
    codes = _unpacked(packed, 4).unflatten(1, (-1, len(AWQ_ORDER)))
    return codes[:, :, torch.tensor(AWQ_ORDER).argsort()].flatten(1)


def _unpacked(packed: Int[Tensor, "R packed"], bits: int) -> Int[Tensor, "R C"]:
    """Return the codes of each row, the lowest bits first."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    return ((packed[:, :, None] >> shifts) & (2**bits - 1)).flatten(1)
