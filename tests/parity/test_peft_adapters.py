"""Merged adapters against PEFT's own, and against the exact sum of updates."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict

from attar.compressors.adapt.lora import Lora
from attar.compressors.catalogue import build
from attar.compressors.merge.adapters import ADAPTER_MERGES, Concat, Factors, merged_updates, relative_error
from attar.compressors.merge.fold import Pair, adapter_pairs
from attar.stages.ingest.tiny_model import random_model

WEIGHTS = [0.7, 0.4]
PEERS = {"concat": "cat", "svd": "svd", "linear": "linear"}


@pytest.fixture(scope="module")
def wrapped() -> PeftModel:
    """A model with two adapters of rank 4 whose B is not zero."""
    base, _ = random_model("llama", num_blocks=2)
    model = Lora(rank=4, alpha=6.0)(base, 0)
    model.add_adapter("other", model.peft_config["default"])
    with torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            if "lora_" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(index))
    return model


def own(wrapped: PeftModel, name: str) -> dict[str, Pair]:
    return adapter_pairs(get_peft_model_state_dict(wrapped, adapter_name=name))


@pytest.mark.parametrize("name", PEERS)
def test_merged_update_equals_pefts(name: str, wrapped: PeftModel) -> None:
    method = build(ADAPTER_MERGES, name, {"rank": 4} if name == "svd" else {})
    ours, errors = merged_updates(method, [(own(wrapped, "default"), 1.5), (own(wrapped, "other"), 1.5)], WEIGHTS)
    options = {"svd_rank": 4} if name == "svd" else {}
    wrapped.add_weighted_adapter(["default", "other"], WEIGHTS, f"to_{name}", combination_type=PEERS[name], **options)
    reference = own(wrapped, f"to_{name}")
    assert ours.keys() == reference.keys() and len(ours) == 14
    for target, pair in reference.items():
        torch.testing.assert_close(ours[target].up @ ours[target].down, pair.up @ pair.down, atol=1e-5, rtol=0)
    assert (max(errors.values()) < 1e-6) == (name == "concat"), "only the concatenation is exact"


def test_svd_is_the_closest_of_its_rank_and_exact_when_that_is_the_sums(wrapped: PeftModel) -> None:
    adapters = [(own(wrapped, "default"), 1.5), (own(wrapped, "other"), 1.5)]
    exact, _ = merged_updates(Concat(), adapters, WEIGHTS)
    for rank in (2, 5, 8):
        updates, errors = merged_updates(build(ADAPTER_MERGES, "svd", {"rank": rank}), adapters, WEIGHTS)
        for target, update in exact.items():
            values = torch.linalg.svdvals((update.up @ update.down).double())
            least = float(values[rank:].norm() / values.norm())
            assert errors[target] == pytest.approx(least, abs=1e-5)
            assert len(updates[target].down) == rank
    assert max(errors.values()) < 1e-6, "rank 8 holds two of rank 4"


def test_a_matrix_that_one_adapter_leaves_alone_keeps_the_others_update() -> None:
    def pair(seed: int, rank: int) -> Pair:
        generator = torch.Generator().manual_seed(seed)
        return Pair("x", torch.randn(rank, 6, generator=generator), torch.randn(5, rank, generator=generator), None)

    first, second = {"a": pair(0, 2), "b": pair(1, 2)}, {"a": pair(2, 3)}
    merged, errors = merged_updates(Concat(), [(first, 1.0), (second, 2.0)], [1.0, 0.5])
    torch.testing.assert_close(merged["b"].up @ merged["b"].down, first["b"].up @ first["b"].down)
    expected = first["a"].up @ first["a"].down + second["a"].up @ second["a"].down
    torch.testing.assert_close(merged["a"].up @ merged["a"].down, expected)
    assert {len(update.down) for update in merged.values()} == {5} and max(errors.values()) < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"magnitude": torch.ones(5)}, "a DoRA adapter is no sum of updates"),
        ({"up": torch.full((5, 2), float("nan"))}, "is not finite"),
        ({"down": torch.ones(2, 7)}, "of matrices of different shapes"),
    ],
)
def test_what_is_no_sum_of_updates_is_refused(change: dict, message: str) -> None:
    parts = {"name": "x", "down": torch.ones(2, 6), "up": torch.ones(5, 2), "magnitude": None}
    with pytest.raises(ValueError, match=message):
        merged_updates(Concat(), [({"a": Pair(**parts)}, 1.0), ({"a": Pair(**(parts | change))}, 1.0)], [1.0, 1.0])


def test_linear_factors_refuse_different_ranks() -> None:
    updates = [Factors(torch.ones(rank, 3), torch.ones(2, rank)) for rank in (1, 2)]
    with pytest.raises(ValueError, match="ranks 1, 2: method 'linear' adds factors of one rank"):
        build(ADAPTER_MERGES, "linear")(updates, [0.5, 0.5])
    assert relative_error(updates[0], updates[0]) == 0.0
