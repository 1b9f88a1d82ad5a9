"""Guidance adapters: the base exactly at the start and at scale one, on every family they are hung onto; what folds is exact."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from attar.compressors.catalogue import build
from attar.compressors.distill.examples.packing import Example, collate
from attar.compressors.guidance.adapters import GuidanceAdapters, ScaleRange, build_adapters
from attar.compressors.guidance.branches import BRANCHES
from attar.compressors.guidance.catalogue import GUIDANCE_ADAPTERS
from attar.compressors.guidance.encoder import ScaleEncoder
from attar.compressors.guidance.fold import fold_offsets
from attar.compressors.guidance.student import guided_student
from attar.compressors.guidance.two_pass import GuidedPrompt
from attar.stages.ingest.tiny_model import FAMILIES, byte_tokenizer, random_model

IDS = torch.arange(3, 40)[None]
RANGE = ScaleRange(low=1.0, high=3.0)
SIZES = {"cross": {"rank": 8, "num_tokens": 4, "num_heads": 2}, "offset": {"rank": 8}}


def made(model: PreTrainedModel, name: str, scales: ScaleRange = RANGE, *, is_trained: bool = True) -> GuidanceAdapters:
    torch.manual_seed(0)
    adapters = build_adapters(model, build(GUIDANCE_ADAPTERS, name, SIZES[name]), scales)
    if is_trained:
        for parameter in adapters.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return adapters.requires_grad_(False)


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("name", GUIDANCE_ADAPTERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_adapters_and_scale_one_are_the_base_bit_for_bit(family: str, name: str) -> None:
    model, _ = random_model(family, num_blocks=2)
    plain = logits(model)
    fresh = made(model, name, is_trained=False)
    handles = fresh.attach(model)
    with fresh.at(2.7):
        assert torch.equal(logits(model), plain), "step 0"
    for handle in handles:
        handle.remove()
    trained = made(model, name)
    trained.attach(model)
    assert torch.equal(logits(model), plain), "off"
    with trained.at(1.0):
        assert torch.equal(logits(model), plain), "scale 1"
    with trained.at(2.7):
        assert (logits(model) - plain).abs().max() > 1e-3, "or the test proves nothing"


def test_bfloat16_bases_stay_what_they_are() -> None:
    model, _ = random_model("llama", num_blocks=2)
    model = model.bfloat16()
    plain, trained = logits(model), made(model, "cross")
    trained.attach(model)
    with trained.at(1.0):
        assert torch.equal(logits(model), plain)
    with trained.at(2.0):
        assert logits(model).dtype == torch.bfloat16 and not torch.equal(logits(model), plain)


def test_the_papers_form_acts_at_one_and_clamps_to_its_own_range() -> None:
    model, _ = random_model("llama", num_blocks=2)
    plain = logits(model)
    adapters = made(model, "cross", ScaleRange(low=1.5, high=3.0, is_base_at_one=False))
    adapters.attach(model)
    outputs = []
    for scale in (1.0, 1.5, 3.0, 8.0):
        with adapters.at(scale):
            outputs.append(logits(model))
    assert not torch.equal(outputs[0], plain)
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[2], outputs[3])
    assert not torch.equal(outputs[1], outputs[2])


def test_where_one_is_the_base_the_range_reaches_to_one() -> None:
    scales = torch.tensor([0.2, 1.0, 1.2, 2.0, 9.0])
    assert ScaleRange(low=1.5, high=3.0).clamp(scales).tolist() == pytest.approx([1.0, 1.0, 1.2, 2.0, 3.0])
    assert ScaleRange(low=0.0, high=0.5).clamp(scales).tolist() == pytest.approx([0.2, 1.0, 1.0, 1.0, 1.0])


def test_the_encoder_tells_scales_apart_but_not_wildly() -> None:
    """With the released multiplier of 1000 near scales would look as different as far ones."""
    torch.manual_seed(0)
    encoder = ScaleEncoder(64)
    with torch.no_grad():
        base, near, far = encoder(torch.tensor([2.0, 2.02, 2.6]))
        cosine = torch.nn.functional.cosine_similarity
        assert cosine(base, near, dim=0) > 0.98 > cosine(base, far, dim=0)
        hashed, other = encoder(torch.tensor([2000.0, 2020.0]))
        assert cosine(hashed, other, dim=0) < 0.9


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt", "qwen3", "gemma2", "granite"])
def test_offsets_fold_exactly_with_or_without_a_bias_of_the_family(family: str) -> None:
    model, _ = random_model(family, num_blocks=2)
    adapters = made(model, "offset")
    handles = adapters.attach(model)
    with adapters.at(2.4):
        expected = logits(model)
    for handle in handles:
        handle.remove()
    plain = logits(model)
    folded = fold_offsets(model, adapters, 2.4)
    assert type(folded) is type(model) and (expected - plain).abs().max() > 1e-2
    torch.testing.assert_close(logits(folded), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "reason"),
    [("qwen2", "no switch to add one"), ("phi3", "no switch to add one"), ("mistral", "no switch")],
)
def test_families_without_a_place_for_an_offset_are_refused(family: str, reason: str) -> None:
    model, _ = random_model(family, num_blocks=2)
    with pytest.raises(ValueError, match=reason):
        fold_offsets(model, made(model, "offset"), 2.0)


def test_only_adapters_learn_and_each_row_is_under_its_own_scale() -> None:
    model, _ = random_model("llama", num_blocks=2)
    student = guided_student(model, made(model, "cross").requires_grad_(True)).eval()
    trained = [name for name, p in student.named_parameters() if p.requires_grad]
    assert trained and all(name.startswith("guidance.") for name in trained)
    examples = [Example([1, 5, 6], [7, 8], scale=1.0), Example([1, 5, 6], [7, 8], scale=2.5)]
    together = student(collate(examples, [0, 1], is_packed=False))
    alone = [student(collate(examples, [index], is_packed=False)) for index in (0, 1)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    assert (alone[0] - alone[1]).abs().max() > 1e-3
    together.sum().backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in student.guidance.parameters())  # type: ignore[union-attr]


def test_adapters_for_another_shape_are_refused() -> None:
    small, large = random_model("llama", num_blocks=2)[0], random_model("llama", num_blocks=3)[0]
    with pytest.raises(ValueError, match="the adapters are for 2 blocks, the model has 3"):
        made(small, "cross").attach(large)
    with pytest.raises(ValueError, match="rank 8 is no multiple of num_heads 3"):
        build(GUIDANCE_ADAPTERS, "cross", {"rank": 8, "num_heads": 3})


def test_branches_begin_with_what_they_say() -> None:
    tokenizer = byte_tokenizer()

    def texts(name: str, question: str = "Sky: blue. Q: Which color?", **params: str) -> list[str]:
        branches = build(BRANCHES, name, params)(tokenizer, question)
        return [tokenizer.decode(ids) for ids in branches]

    assert texts("no_prompt")[1] == "\n"
    assert "Sky" in texts("no_context", context_end="Q:")[0]
    assert (
        "Sky" not in texts("no_context", context_end="Q:")[1]
        and "Which color?" in texts("no_context", context_end="Q:")[1]
    )
    shown, hidden = texts("no_context", context="Speak like a sailor.")
    assert "sailor" in shown and "sailor" not in hidden and "Which color?" in hidden
    assert (
        "rude" in texts("negative_prompt", prompt="Be rude.")[1]
        and "rude" not in texts("negative_prompt", prompt="x")[0]
    )
    first, second = texts("weak_model")
    assert first == second
    with pytest.raises(ValueError, match="cuts no context from the question"):
        texts("no_context", question="no end here", context_end="Q:")


def test_a_guided_prompt_is_the_sequence_of_its_conditional_tokens() -> None:
    prompt = GuidedPrompt([4, 5, 6], [9], 2.0)
    assert len(prompt) == 3 and prompt[-1] == 6 and prompt[:-1] == [4, 5] and list(prompt) == [4, 5, 6]
