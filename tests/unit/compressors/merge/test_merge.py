"""Folding and SLERP on small tensors, by their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from attar.compressors.merge.fold import check_fold, fold_adapter, fold_weights
from attar.compressors.merge.methods import merge_states
from attar.compressors.merge.slerp import Slerp


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ADAPTER = {
    "base_model.model.q.lora_A.weight": tensor(2, 4, seed=1),
    "base_model.model.q.lora_B.weight": tensor(3, 2, seed=2),
}


@pytest.mark.parametrize("is_transposed", [False, True])
def test_fold_adds_the_scaled_product_to_its_matrix_only(is_transposed: bool) -> None:
    weight = tensor(4, 3) if is_transposed else tensor(3, 4)
    base = {"q.weight": weight, "k.weight": tensor(3, 4, seed=5)}
    folded = fold_adapter(base, ADAPTER, scale=0.5, is_transposed=is_transposed)
    delta = 0.5 * ADAPTER["base_model.model.q.lora_B.weight"] @ ADAPTER["base_model.model.q.lora_A.weight"]
    torch.testing.assert_close(folded["q.weight"], weight + (delta.T if is_transposed else delta))
    assert folded["k.weight"] is base["k.weight"]


@pytest.mark.parametrize(
    ("base", "adapter", "message"),
    [
        ({"k.weight": tensor(3, 4)}, ADAPTER, "has no place in the base model"),
        ({"q.weight": tensor(5, 4)}, ADAPTER, "does not fit"),
        ({"q.weight": torch.ones(3, 4, dtype=torch.uint8)}, ADAPTER, "is quantized"),
        (
            {"q.weight": tensor(3, 4)},
            {"base_model.model.q.lora_embedding_A": tensor(3)},
            "is not of a low-rank adapter",
        ),
    ],
)
def test_fold_refuses_what_it_cannot_place(base: dict, adapter: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fold_adapter(base, adapter, scale=1.0)


def test_trained_weights_take_their_places_and_nothing_else_moves() -> None:
    base = {"q.weight": tensor(3, 4).bfloat16(), "k.weight": tensor(3, 4, seed=5)}
    folded = fold_weights(base, {"q.weight": tensor(3, 4, seed=9)})
    assert torch.equal(folded["q.weight"], tensor(3, 4, seed=9).bfloat16()) and folded["k.weight"] is base["k.weight"]
    with pytest.raises(ValueError, match="has no place"):
        fold_weights(base, {"q.weight": tensor(4, 4)})


def test_check_fold_wants_equal_to_the_adapter_and_different_from_the_base() -> None:
    logits = tensor(5, 7)
    assert check_fold(logits, logits + 1e-6, logits - 1.0, 1e-4)[1] == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(ValueError, match="differ from the adapter's"):
        check_fold(logits, logits + 0.1, logits - 1.0, 1e-4)
    with pytest.raises(ValueError, match="changed nothing"):
        check_fold(logits, logits, logits, 1e-4)


def test_slerp_of_orthogonal_unit_vectors_walks_the_circle() -> None:
    first, second = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}
    for t in (0.0, 0.25, 0.5, 1.0):
        merged, branches = merge_states(Slerp(t=t), (first, second))
        expected = torch.tensor([math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)])
        torch.testing.assert_close(merged["w"], expected, atol=1e-6, rtol=0)
        assert branches == {"w": "slerp"}


def test_slerp_of_nearly_parallel_weights_is_lerp_and_says_so() -> None:
    base = tensor(50)
    first, second = {"w": base + 1e-4 * tensor(50, seed=1)}, {"w": base + 1e-4 * tensor(50, seed=2)}
    merged, branches = merge_states(Slerp(t=0.3), (first, second), {"w": base})
    assert branches == {"w": "lerp"}
    torch.testing.assert_close(merged["w"], 0.7 * first["w"] + 0.3 * second["w"])
    _, branches = merge_states(Slerp(t=0.3, on="deltas"), (first, second), {"w": base})
    assert branches == {"w": "slerp"}, "the deltas are not parallel"


def test_slerp_endpoints_and_equal_tensors() -> None:
    first, second, base = {"w": tensor(9)}, {"w": tensor(9, seed=1)}, {"w": tensor(9, seed=2)}
    for on in ("weights", "deltas"):
        torch.testing.assert_close(merge_states(Slerp(t=0.0, on=on), (first, second), base)[0]["w"], first["w"])
        torch.testing.assert_close(merge_states(Slerp(t=1.0, on=on), (first, second), base)[0]["w"], second["w"])
    assert merge_states(Slerp(), (first, first), base)[1] == {"w": "equal"}


@pytest.mark.parametrize("params", [{"t": 1.5}, {"t": -0.1}, {"on": "logits"}])
def test_slerp_refuses_parameters_outside_their_range(params: dict) -> None:
    with pytest.raises(ValueError, match="must"):
        Slerp(**params)
