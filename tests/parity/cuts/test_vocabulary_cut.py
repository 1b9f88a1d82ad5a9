"""A model of fewer tokens is the original, its distribution renormalised over them: every family, tied and not, loaded by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from attar.compressors.models.blocks import remove_blocks
from attar.compressors.prune.vocabulary.tables import cut_vocabulary, kept_logprobs, probe_logprobs
from attar.stages.ingest.tiny_model import FAMILIES, random_model
from benchmarks.families.sizes import family_config

# Ends and beginnings among them; not in the order of any table by chance: every third, and the last.
STAYING = sorted({0, 1, 2, *range(5, 259, 3), 258})
IDS = torch.randint(len(STAYING), (2, 24), generator=torch.Generator().manual_seed(1))
OLD = torch.tensor(STAYING)


def untied(model: Any) -> Any:
    """Give the head rows of its own."""
    model.config.tie_word_embeddings = False
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(
        torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(2)).double() * 0.2
    )
    return model


def cut_and_compared(model: Any, folder: Path) -> float:
    """Cut, save, load as a stranger, and return the largest difference of log-probabilities of kept tokens."""
    with torch.no_grad():
        expected = model(input_ids=OLD[IDS]).logits[..., OLD].log_softmax(-1)
        cut_vocabulary(model, STAYING)
        model.save_pretrained(folder)
        loaded, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        here, there = (each.eval()(input_ids=IDS).logits.log_softmax(-1) for each in (model, loaded))
    assert torch.equal(here, there)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    decoded = [loaded.generate(IDS[:1], use_cache=is_cached, **options) for is_cached in (True, False)]
    assert torch.equal(*decoded)
    return float((here - expected).abs().max())


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_kept_tokens_say_what_they_said(family: str, is_tied: bool, tmp_path: Path) -> None:
    model = random_model(family)[0].double()
    if is_tied:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    else:
        model = untied(model)
    # float64: what is left is the order of additions
    assert cut_and_compared(model, tmp_path) < 1e-9
    config = AutoConfig.from_pretrained(tmp_path)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert config.vocab_size == len(STAYING) == embedding.num_embeddings == head.out_features
    assert (embedding.weight is head.weight) == is_tied
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 0)


@pytest.mark.parametrize("family", ["phi", "gptj", "codegen", "gemma3n_text"])
def test_heads_with_a_bias_and_tables_of_a_block(family: str, tmp_path: Path) -> None:
    sizes = {"vocab_size": 259, **({"vocab_size_per_layer_input": 259} if family == "gemma3n_text" else {})}
    config = family_config(family, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).double().eval()
        bias = getattr(model.get_output_embeddings(), "bias", None)
        if bias is not None:
            nn.init.normal_(bias)
    assert (bias is not None) == (family != "gemma3n_text")
    assert cut_and_compared(model, tmp_path) < 1e-9


def test_special_ids_follow_their_tokens(tmp_path: Path) -> None:
    model = random_model("llama")[0]
    model.config.eos_token_id, model.config.pad_token_id = [258, 5], 8
    model.generation_config = GenerationConfig(eos_token_id=[258, 5], pad_token_id=8, suppress_tokens=[3, 11])
    cut_vocabulary(model, STAYING)
    model.save_pretrained(tmp_path)
    config, generation = AutoConfig.from_pretrained(tmp_path), GenerationConfig.from_pretrained(tmp_path)
    new_id = {old: new for new, old in enumerate(STAYING)}
    assert config.eos_token_id == generation.eos_token_id == [new_id[258], new_id[5]]
    assert config.pad_token_id == generation.pad_token_id == new_id[8] == model.get_input_embeddings().padding_idx
    assert generation.suppress_tokens == [new_id[11]]


def test_in_float32_the_probe_agrees_to_a_millionth_and_rows_of_other_ids_do_not() -> None:
    model = untied(random_model("llama")[0].double()).float()
    expected = kept_logprobs(model, STAYING)
    cut_vocabulary(model, STAYING)
    largest = float(expected.abs().max())
    assert float((probe_logprobs(model) - expected).abs().max()) <= 1e-6 * largest
    head = model.get_output_embeddings()
    with torch.no_grad():  # an untied head that was cut by ids one further on
        head.weight.copy_(head.weight.roll(1, dims=0))
    assert float((probe_logprobs(model) - expected).abs().max()) > 1e-2 * largest


def test_a_trimmed_model_can_be_cut_further(tmp_path: Path) -> None:
    model = random_model("llama")[0].double()
    cut_vocabulary(model, STAYING)
    remove_blocks(model, [1])
    model.save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.num_hidden_layers == 3


def test_what_is_no_table_of_tokens_is_refused_before_anything_changes() -> None:
    model = random_model("llama")[0]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.lm_head = nn.Linear(64, 100, bias=False)
    with pytest.raises(ValueError, match="its embedding has 259 rows, its head 100; equal numbers are expected"):
        cut_vocabulary(model, STAYING)
    model.lm_head = nn.Sequential(nn.Linear(64, 259))
    with pytest.raises(ValueError, match="no plain matrix; its vocabulary cannot be cut"):
        cut_vocabulary(model, STAYING)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.model.state_dict(prefix="model.").items())
