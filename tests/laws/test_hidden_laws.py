"""A rotated stream computes the same, a narrower one computes what the whole model does with channels zeroed by hand, and others are refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from attar.compressors.measure.cost import num_parameters
from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.prune.hidden.cut import KeptChannels, cut_hidden, fewer_channels
from attar.compressors.prune.hidden.rotate import check_rotation, rotate_stream
from attar.compressors.prune.hidden.stream import accepted_widths, check_stream, stream_readings
from attar.stages.ingest.tiny_model import random_model

IDS = torch.randint(3, 250, (2, 12), generator=torch.Generator().manual_seed(0))
UNTIED = ("llama", "mistral", "qwen2", "qwen3", "phi3", "granite")
NUM_NORMS = 9
# float32 sums in another order: norms compute in it whatever the model's dtype. A wrong row or column is off by more than 0.01
SAME = {"atol": 1e-4, "rtol": 0.0}
INDICES = torch.tensor([index for index in range(64) if index % 4 != 1])


def channels_of(indices: torch.Tensor = INDICES, rotation: torch.Tensor | None = None) -> KeptChannels:
    return KeptChannels(indices, torch.linspace(0.9, 1.0, NUM_NORMS), rotation)


def orthogonal() -> torch.Tensor:
    draw = torch.randn(64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.linalg.qr(draw).Q


def with_weights_of_norms(family: str) -> nn.Module:
    """A model whose norms' weights are not all one, and whose head is its own matrix."""
    model = random_model(family)[0]
    draw = torch.Generator().manual_seed(2)
    for reading in stream_readings(model):
        nn.init.uniform_(reading.norm.weight, 0.5, 1.5, generator=draw)
    if model.get_output_embeddings().weight is model.get_input_embeddings().weight:
        model.get_output_embeddings().weight = nn.Parameter(torch.randn(259, 64, generator=draw) * 0.15)
        model.config.tie_word_embeddings = False
    return model


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("family", UNTIED)
def test_a_rotation_without_a_cut_leaves_the_logits(family: str) -> None:
    model = with_weights_of_norms(family)
    expected, scale = logits(model), logits(model).abs().max()
    rotated = copy.deepcopy(model)
    rotate_stream(rotated, orthogonal())
    assert (logits(rotated) - expected).abs().max() < 1e-5 * scale
    assert (rotated.get_input_embeddings().weight - model.get_input_embeddings().weight).abs().max() > 0.1


def zeroed_by_hand(model: nn.Module, indices: torch.Tensor) -> torch.Tensor:
    """Logits with nothing in the other channels: rows of the embedding, and what attention and feed-forward part add, set to zero."""
    masked = copy.deepcopy(model)
    gone = torch.tensor([index for index in range(64) if index not in indices.tolist()])
    with torch.no_grad():
        embedding = masked.get_input_embeddings()
        embedding.weight = nn.Parameter(embedding.weight.clone())  # a tied head reads zeros anyway
        embedding.weight[:, gone] = 0
        for name, parameter in decoder_blocks(masked).named_parameters():
            if name.endswith(("o_proj.weight", "o_proj.bias", "mlp.down_proj.weight", "mlp.down_proj.bias")):
                parameter[gone] = 0
            elif name.endswith("experts.down_proj"):
                parameter[:, gone] = 0
        for reading, factor in zip(stream_readings(masked), channels_of().factors.tolist(), strict=True):
            reading.norm.weight.mul_(factor)
    return logits(masked)


@pytest.mark.parametrize("family", [*UNTIED, "smollm3", "mixtral"])
def test_a_cut_computes_what_the_whole_model_does_with_channels_zeroed_by_hand(family: str, tmp_path: Path) -> None:
    model = random_model(family)[0]
    for reading in stream_readings(model):
        nn.init.uniform_(reading.norm.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(2))
        reading.norm.variance_epsilon = 0.0  # else it weighs more beside fewer channels
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    expected, cut = zeroed_by_hand(model, INDICES), copy.deepcopy(model)
    with fewer_channels(model, channels_of()):
        torch.testing.assert_close(logits(model), expected, **SAME)
    cut_hidden(cut, channels_of())
    torch.testing.assert_close(logits(cut), expected, **SAME)
    assert (expected - logits(model)).abs().max() > 1e-2
    assert (cut.get_output_embeddings().weight is cut.get_input_embeddings().weight) == is_tied
    cut.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert (loaded.config.hidden_size, num_parameters(loaded)) == (48, num_parameters(cut))
    for reading in stream_readings(loaded):
        reading.norm.variance_epsilon = 0.0
    torch.testing.assert_close(logits(loaded), expected, **SAME)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    both = [loaded.generate(IDS[:1], use_cache=is_cached, **options) for is_cached in (True, False)]
    assert torch.equal(*both)


def test_a_narrower_rotated_stream_is_the_projection_of_the_whole_one() -> None:
    model, first = with_weights_of_norms("llama"), torch.arange(48)
    with fewer_channels(model, channels_of(first, orthogonal())):
        expected = logits(model)
    cut = copy.deepcopy(model)
    rotate_stream(cut, orthogonal())
    with fewer_channels(cut, channels_of(first)):
        torch.testing.assert_close(logits(cut), expected, **SAME)
    cut_hidden(cut, channels_of(first))
    torch.testing.assert_close(logits(cut), expected, **SAME)
    states = torch.randn(2, 3, 64)
    projected = channels_of(first, orthogonal()).of(states)
    torch.testing.assert_close(projected, (states @ orthogonal().float())[..., :48], **SAME)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt", "olmo2", "gemma2", "gemma3"])
def test_a_family_whose_stream_is_no_plain_one_is_refused_by_name(family: str) -> None:
    model = random_model(family)[0]
    with pytest.raises(ValueError, match=rf"^{type(model).__name__}: "):
        check_stream(model)


def test_norms_and_embeddings_that_do_more_are_refused() -> None:
    model = random_model("llama")[0]
    check_stream(model)
    decoder_blocks(model)[2].input_layernorm = nn.LayerNorm(64, bias=False)
    with pytest.raises(ValueError, match="LayerNorm is no plain RMS norm"):
        check_stream(model)
    model = random_model("llama")[0]
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: output * 8.0)
    with pytest.raises(ValueError, match="what enters block 0 is not the embedding"):
        check_stream(model)


@pytest.mark.parametrize(
    ("family", "message"), [("smollm3", "one matrix is its embedding and its head"), ("mixtral", "no plain matrix")]
)
def test_what_a_rotation_cannot_turn_is_refused_with_the_reason(family: str, message: str) -> None:
    model = random_model(family)[0]
    check_stream(model)
    with pytest.raises(ValueError, match=message):
        check_rotation(model)


def test_widths_are_those_that_the_config_takes_beside_its_heads() -> None:
    """Llama's config wants heads to divide hidden_size: 4 of them."""
    model = random_model("llama")[0]
    assert accepted_widths(model, 1, 50) == [52, 56, 60]
    assert accepted_widths(model, 3, 45) == [48, 60]
    model.config.head_dim = 8
    with pytest.raises(ValueError, match=r"LlamaForCausalLM: .* would be .*, not 48 of 64 channels"):
        cut_hidden(model, channels_of())
