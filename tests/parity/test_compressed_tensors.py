"""The package compressed-tensors beside ours: inputs rounded token by token, and AWQ's layout as its converter reads it."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.quantize.packed_codes import awq_weight
from attar.compressors.quantize.rounded import round_tokens
from tests.packed_models import awq_packed

pytest.importorskip("compressed_tensors")


@pytest.mark.parametrize("is_float8", [False, True])
def test_inputs_are_rounded_as_the_package_rounds_them(is_float8: bool) -> None:
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

    states = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, 5)[:, None]
    states[0, 0] = 0.0
    number = "float" if is_float8 else "int"
    args = QuantizationArgs(num_bits=8, type=number, symmetric=True, strategy="token", dynamic=True)  # type: ignore[arg-type]
    scale, zero = compute_dynamic_scales_and_zp(value=states, args=args, module=torch.nn.Linear(64, 1))
    expected = fake_quantize(x=states, scale=scale, zero_point=zero, args=args)
    assert torch.equal(round_tokens(states, is_float8=is_float8), expected)


def test_awq_matrices_are_those_of_the_packages_own_converter() -> None:
    converters = pytest.importorskip("compressed_tensors.entrypoints.convert.converters.autoawq")  # since 0.16
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    generator = torch.Generator().manual_seed(1)
    codes, zeros = (torch.randint(16, shape, generator=generator) for shape in ((64, 16), (2, 16)))
    steps = 0.1 + torch.rand(2, 16, generator=generator)
    packed = {"proj.qweight": awq_packed(codes), "proj.qzeros": awq_packed(zeros), "proj.scales": steps}
    weights = QuantizationArgs(num_bits=4, type="int", symmetric=False, strategy="group", group_size=32)  # type: ignore[arg-type]
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    converted = converters.AutoAWQConverter(group_size=32).process(dict(packed))
    converted = {name.removeprefix("proj."): tensor for name, tensor in converted.items()}
    expected = BaseCompressor.get_value_from_registry("pack-quantized").decompress(converted, scheme)["weight"]
    assert torch.equal(awq_weight(*packed.values()), expected)
