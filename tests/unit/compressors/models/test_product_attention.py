"""Attention by whole products: transformers' own result and gradients, nothing across packed rows, and what is left to it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from attar.compressors.distill.examples.packing import Example, collate
from attar.compressors.distill.teachers.student import Student
from attar.compressors.models import product_attention
from attar.compressors.models.product_attention import MAX_TOKENS, NUM_QUERIES, attend_by_products, attention
from attar.stages.artifacts.model.folder import load_model
from attar.stages.ingest.tiny_model import FAMILIES, random_model

# Relative to the whole: what bf16 leaves of three digits, through scores that are rounded once more than in a fused kernel.
ROUNDING = 1e-2
LONG = 2 * NUM_QUERIES + 45


def inputs(num_tokens: int, batch: int = 1, heads: int = 6, groups: int = 2) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(batch, count, num_tokens, 32) for count in (heads, groups, groups)]


def causal(num_tokens: int) -> Tensor:
    return torch.ones(1, 1, num_tokens, num_tokens, dtype=torch.bool).tril()


def packed(*lengths: int) -> Tensor:
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return causal(len(document)) & (document[:, None] == document[None, :])


def padded(num_tokens: int, *lengths: int) -> Tensor:
    is_there = torch.arange(num_tokens) < torch.tensor(lengths)[:, None]
    return causal(num_tokens) & is_there[:, None, None, :]


def windowed(num_tokens: int, width: int) -> Tensor:
    return causal(num_tokens) & ~causal(num_tokens).tril(-width)


def learned(how: Any, parts: list[Tensor], mask: Tensor | None, dtype: torch.dtype, **options: Any) -> list[Tensor]:
    """Return what comes out, and the gradients in query, key and value of a loss that weighs every number."""
    leaves = [part.detach().clone().to(dtype).requires_grad_() for part in parts]
    module = SimpleNamespace(num_key_value_groups=parts[0].shape[1] // parts[1].shape[1], is_causal=True)
    out, _ = how(module, *leaves, mask, **options)
    out.backward(torch.linspace(-1.0, 1.0, out.numel()).view(out.shape).to(dtype))
    return [out.detach().float(), *(leaf.grad.float() for leaf in leaves)]


@pytest.mark.parametrize(
    "mask",
    [None, causal(LONG), packed(90, 150, 30, LONG - 270), windowed(LONG, 50)],
    ids=["causal without mask", "causal", "packed", "sliding window"],
)
@pytest.mark.parametrize("groups", [2, 6], ids=["grouped", "all heads"])
def test_values_and_gradients_are_the_fused_kernels(mask: Tensor | None, groups: int) -> None:
    parts = inputs(LONG, groups=groups)
    exact = learned(sdpa_attention_forward, parts, mask, torch.float32)
    for wanted, actual in zip(exact, learned(attention, parts, mask, torch.bfloat16), strict=True):
        assert (actual - wanted).norm() <= ROUNDING * wanted.norm()


def test_padded_rows_are_the_fused_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product_attention, "NUM_QUERIES", 16)
    parts, mask = inputs(70, batch=2), padded(70, 70, 20)
    exact = learned(sdpa_attention_forward, parts, mask, torch.float32, scaling=0.3)
    for wanted, actual in zip(exact, learned(attention, parts, mask, torch.bfloat16, scaling=0.3), strict=True):
        assert (actual - wanted).norm() <= ROUNDING * wanted.norm()


def test_padding_that_sees_nothing_leaves_every_gradient_a_number() -> None:
    mask = causal(LONG).clone()
    mask[..., : NUM_QUERIES + 10, :] = False  # on the left: a whole span, and a part of the next
    for gradient in learned(attention, inputs(LONG), mask, torch.bfloat16):
        assert gradient.isfinite().all()


def test_masks_that_take_turns_are_not_mixed_up() -> None:
    parts, masks = inputs(60), (packed(20, 40), packed(35, 25))
    alone = [learned(attention, parts, mask.clone(), torch.bfloat16)[0] for mask in masks]
    assert not torch.equal(*alone)
    for turn in (0, 1, 1, 0):
        assert torch.equal(learned(attention, parts, masks[turn], torch.bfloat16)[0], alone[turn])


def test_nothing_crosses_packed_rows() -> None:
    parts, mask = inputs(LONG), packed(140, LONG - 140)
    other = [part.clone() for part in parts]
    for part in other:
        part[:, :, 140:] += 1.0
    first, second = (learned(attention, some, mask, torch.bfloat16) for some in (parts, other))
    assert torch.equal(first[0][:, :140], second[0][:, :140])
    assert not torch.equal(first[0][:, 140:], second[0][:, 140:])
    for actual, reference in zip(first[1:], second[1:], strict=True):
        assert torch.equal(actual[:, :, :140], reference[:, :, :140])


@pytest.mark.parametrize(
    ("num_tokens", "dtype", "options"),
    [
        (60, torch.float32, {}),
        (MAX_TOKENS + 1, torch.bfloat16, {}),
        (60, torch.bfloat16, {"is_causal": False}),
        (60, torch.bfloat16, {"position_bias": torch.ones(1, 6, 60, 60, dtype=torch.bfloat16)}),
    ],
    ids=["float32", "long", "both directions", "position bias"],
)
def test_what_it_does_not_do_is_left_to_transformers(
    num_tokens: int, dtype: torch.dtype, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(product_attention, "_Products", None)
    parts = [part.to(dtype) for part in inputs(num_tokens)]
    module = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    wanted, _ = sdpa_attention_forward(module, *parts, None, **options)  # type: ignore[arg-type]
    output, _ = attention(module, *parts, None, **options)  # type: ignore[arg-type]
    assert torch.equal(output, wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_gives_what_its_model_gives_by_sdpa(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product_attention, "NUM_QUERIES", 8)
    model = random_model(family)[0].to(torch.bfloat16)
    own = model.config._attn_implementation
    batch = collate([Example(range(5, 12), range(20, 30)), Example([7], range(40, 47))], [0, 1], is_packed=True)
    student = Student(model)
    assert model.config._attn_implementation == (product_attention.NAME if own == "sdpa" else own)
    logits = student.logits(batch)
    model.set_attn_implementation(own)
    wanted = student.logits(batch)
    assert torch.equal(logits, wanted) == (own != "sdpa")  # it was another kernel
    assert (logits - wanted).norm() <= 3 * ROUNDING * wanted.norm()


def test_a_model_that_attends_in_its_own_way_is_left_alone() -> None:
    model = random_model("llama")[0]
    model.set_attn_implementation("eager")
    attend_by_products(model)
    assert model.config._attn_implementation == "eager"


def test_what_is_loaded_to_compute_in_bfloat16_attends_by_products_and_its_folder_says_nothing_of_it(
    tmp_path: Path,
) -> None:
    random_model("llama")[0].to(torch.bfloat16).save_pretrained(tmp_path / "plain")
    computing = load_model(tmp_path / "plain", torch.bfloat16, torch.device("cpu"))
    assert computing.config._attn_implementation == product_attention.NAME
    for dtype in ("auto", torch.float32):
        assert load_model(tmp_path / "plain", dtype).config._attn_implementation == "sdpa"
    computing.save_pretrained(tmp_path / "again")
    assert product_attention.NAME not in (tmp_path / "again" / "config.json").read_text()
