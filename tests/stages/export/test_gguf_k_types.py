"""K types and the importance matrix: what falls back, what is refused without llama.cpp's library; slow: what the library writes.

Wanted for the slow ones: `npm install node-llama-cpp` in the folder ATTAR_LLAMA_CPP.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import gguf
import pytest
import torch
from torch import nn

from attar.compressors.quantize.importance import input_powers
from attar.registry.artifacts.handles import ModelArtifact
from attar.stages.artifacts.gguf.element_types import ELEMENT_TYPES, fitting_type, row_bytes, tensor_type, unpacked
from attar.stages.artifacts.gguf.ggml_library import INSTALL, LLAMA_CPP_FOLDER, find_library, quantized
from attar.stages.artifacts.model.folder import load_model
from attar.stages.export.formats.gguf import GgufFormat, WeightType
from attar.stages.export.gguf.room import forecast_gguf

K_TYPES = [name for name, kind in ELEMENT_TYPES.items() if kind.needs_library]
SEED = 5


def test_types_have_the_bits_and_blocks_that_gguf_says() -> None:
    assert set(get_args(WeightType)) == set(ELEMENT_TYPES) and len(K_TYPES) == 5
    weighed = {"q6_k", "q5_1", "q5_k", "q5_0", "q4_1", "q4_k", "q4_0", "q3_k", "q2_k"}
    assert {name for name, kind in ELEMENT_TYPES.items() if kind.heeds_importance} == weighed
    for name, kind in ELEMENT_TYPES.items():
        block, num_bytes = gguf.GGML_QUANT_SIZES[tensor_type(name)]
        assert kind.block == block and kind.bits == 8 * num_bytes / block, name
        assert row_bytes(1024, name) == 1024 // block * num_bytes


def test_rows_that_a_type_does_not_divide_get_a_wider_one() -> None:
    wanted = {
        ("q4_k", 512): "q4_k",
        ("q4_k", 576): "q5_0",
        ("q5_k", 576): "q5_1",
        ("q6_k", 576): "q8_0",
        ("q2_k", 576): "q4_0",
    }
    assert {pair: fitting_type(*pair) for pair in wanted} == wanted
    assert fitting_type("q4_k", 100) == fitting_type("q8_0", 100) == "f16"
    for name in ELEMENT_TYPES:
        assert ELEMENT_TYPES[fitting_type(name, 576)].bits >= ELEMENT_TYPES[name].bits


def test_powers_are_the_mean_squares_of_what_a_product_reads(model: ModelArtifact) -> None:
    loaded = load_model(model.path, torch.float32)
    ids = torch.randint(0, loaded.config.vocab_size, (2, 5), generator=torch.Generator().manual_seed(SEED))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    powers = input_powers(loaded, [(ids, mask)])
    linears = {name for name, module in loaded.named_modules() if isinstance(module, nn.Linear)}
    assert set(powers) == linears
    with torch.no_grad():
        states = loaded(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    read = loaded.model.layers[1].input_layernorm(states[1])[mask.bool()]
    wanted = read.square().mean(0)
    for name in ("q_proj", "k_proj", "v_proj"):
        torch.testing.assert_close(powers[f"model.layers.1.self_attn.{name}"], wanted.detach())


def test_without_the_library_a_plan_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in ("", str(tmp_path)):
        monkeypatch.setenv(LLAMA_CPP_FOLDER, folder)
        with pytest.raises(
            ValueError, match=r"format\.weights is 'q4_k', which needs llama\.cpp's library: npm install"
        ):
            forecast_gguf(GgufFormat(weights="q4_k"), {"hidden_size": 512})
        with pytest.raises(ValueError, match=r"format\.importance needs llama\.cpp's library"):
            forecast_gguf(GgufFormat(weights="q4_0", importance={}), {"hidden_size": 512})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"importance changes nothing of weights 'q8_0'; accepted: q6_k, "):
        GgufFormat(weights="q8_0", importance={})  # type: ignore[arg-type]


def test_widths_that_no_k_type_divides_are_refused_with_what_they_would_become(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "libggml-base.so").touch()
    monkeypatch.setenv(LLAMA_CPP_FOLDER, str(tmp_path))
    facts = {"hidden_size": 576, "vocab_size": 49152, "num_parameters": 113e6}
    with pytest.raises(
        ValueError, match=r"rows of 576 numbers are not whole blocks of 256: the embedding, 25% of the weights, .* q5_0"
    ):
        forecast_gguf(GgufFormat(weights="q4_k"), facts)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif(find_library() is None, reason=f"llama.cpp's library is not there: {INSTALL}")
@pytest.mark.parametrize("name", K_TYPES)
def test_the_library_rounds_to_what_the_reader_decodes(name: str) -> None:
    rows = torch.randn(64, 512, generator=torch.Generator().manual_seed(SEED))
    errors = (unpacked(quantized(rows, name, None), tensor_type(name)) - rows).square()
    # of a uniform grid of so many bits over the range of 32 Gaussian numbers, about 4.2 deviations
    steps = 2 ** int(ELEMENT_TYPES[name].bits) - 1
    assert float(errors.mean().sqrt()) < 1.5 * 4.2 / steps / 12**0.5
    importance = torch.ones(512)
    importance[:64] = 100.0
    weighed = (unpacked(quantized(rows, name, importance), tensor_type(name)) - rows).square()
    assert float(weighed[:, :64].mean()) < float(errors[:, :64].mean()), "columns that carry more lose less"
