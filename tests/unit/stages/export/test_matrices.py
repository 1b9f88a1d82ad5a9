"""Matrices rounded to halves and to integers with a scale a row: within half a step, the same codes again, tied ones once."""

from __future__ import annotations

import pytest
import torch

from attar.stages.export.openvino.matrices import LARGEST_CODE, integer_rows, round_matrices
from attar.stages.ingest.tiny_model import random_model


def test_a_row_is_off_by_half_a_step_at_most() -> None:
    rows = torch.randn(7, 40, generator=torch.Generator().manual_seed(0))
    rows[3] = 0.0
    codes, scales = integer_rows(rows)
    assert bool((codes[3] == 0).all()) and int(codes.abs().max()) == LARGEST_CODE
    assert bool(((codes * scales - rows).abs() <= scales / 2 * (1 + 1e-5)).all())


def test_what_was_rounded_has_the_same_codes_again() -> None:
    codes, scales = integer_rows(torch.randn(50, 64, generator=torch.Generator().manual_seed(1)))
    again, others = integer_rows(codes * scales)
    assert torch.equal(again, codes)
    torch.testing.assert_close(others, scales, rtol=1e-6, atol=0)


@pytest.mark.parametrize("weights", ["f16", "int8"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_matrix_is_rounded_along_its_inputs(family: str, weights: str) -> None:
    """GPT-2's are stored the other way round, and its head is its embedding."""
    model, _ = random_model(family, num_blocks=1)
    vectors = {name: weight.clone() for name, weight in model.named_parameters() if weight.ndim == 1}
    matrices = {name: weight.clone() for name, weight in model.named_parameters() if weight.ndim == 2}
    assert round_matrices(model, weights) == len(matrices)
    rounded = dict(model.named_parameters())
    assert all(torch.equal(rounded[name], vector) for name, vector in vectors.items())
    for name, matrix in matrices.items():
        if weights == "f16":
            assert torch.equal(rounded[name], matrix.half().float())
            continue
        is_turned = family == "gpt2" and not name.endswith(("wte.weight", "wpe.weight"))
        codes, scales = integer_rows(matrix.T if is_turned else matrix)
        expected = codes * scales
        torch.testing.assert_close(rounded[name], expected.T if is_turned else expected, rtol=0, atol=0)


def test_a_number_past_the_halves_is_refused() -> None:
    model, _ = random_model("llama", num_blocks=1)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6  # type: ignore[index]
    with pytest.raises(
        ValueError, match=r"'f16', in which model\.layers\.0\.mlp\.up_proj is not finite; accepted: f32, int8"
    ):
        round_matrices(model, "f16")
