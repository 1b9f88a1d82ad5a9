"""Folders packed by other tools come in as the plain floats that their codes stand for, or are refused in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from attar.registry.artifacts.handles import ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.runtime.progress import Event, listen
from tests.packed_models import packed_folder
from tests.stages.ingest.model_folders import ingest


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_a_packed_folder_comes_in_as_the_numbers_that_its_codes_stand_for(
    store: Store, model: ModelArtifact, tmp_path: Path, method: str
) -> None:
    meant = packed_folder(model.path, tmp_path / "packed", method)
    events: list[Event] = []
    with listen(events.append):
        artifact = ingest(store, f"folder:{tmp_path / 'packed'}")
    tensors = load_file(artifact.path / "model.safetensors")
    assert len(meant) == 28 and all(torch.equal(tensors[name], weight) for name, weight in meant.items())
    assert "quantization_config" not in json.loads((artifact.path / "config.json").read_text())
    assert artifact.facts.dtype == "float16" and artifact.facts.num_parameters == model.facts.num_parameters
    assert artifact.facts.quantization is None
    notes = " ".join(str(event) for event in events)
    assert f"{method.upper()}, 4 bits in groups of 32: 28 packed matrices dequantized to float16" in notes
    original, taken = (load_model(path, torch.float32) for path in (model.path, artifact.path))
    ids = torch.tensor([[5, 6, 7, 8]])
    first, other = (each(input_ids=ids).logits.detach().log_softmax(-1) for each in (original, taken))
    assert 0 < float((first.exp() * (first - other)).sum(-1).mean()) < 1.0, "near the model that was packed"


def test_a_plan_tells_the_facts_of_a_packed_folder(model: ModelArtifact, tmp_path: Path) -> None:
    packed_folder(model.path, tmp_path / "packed", "gptq")
    config = IngestModelConfig(source=f"folder:{tmp_path / 'packed'}")
    facts = ingest_model.forecast(config, {}).facts
    assert facts["num_parameters"] == model.facts.num_parameters and facts["dtype"] == "float16"


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("awq", {"version": "gemv"}, "says version 'gemv'; accepted of awq: gemm"),
        ("awq", {"bits": 3}, "says bits 3; accepted of awq: 4"),
        ("awq", {"zero_point": False}, "says zero_point False; accepted of awq: True"),
        ("gptq", {"bits": 3}, "says bits 3; accepted of gptq: 2, 4, 8"),
        ("gptq", {"checkpoint_format": "marlin"}, "says checkpoint_format 'marlin'; accepted of gptq: gptq, gptq_v2"),
    ],
)
def test_forms_that_are_not_read_are_refused(
    store: Store, model: ModelArtifact, tmp_path: Path, method: str, settings: dict[str, object], message: str
) -> None:
    packed_folder(model.path, tmp_path / "packed", method, **settings)
    with pytest.raises(ValueError, match=message):
        ingest(store, f"folder:{tmp_path / 'packed'}")


def test_damaged_parts_are_refused(store: Store, model: ModelArtifact, tmp_path: Path) -> None:
    packed_folder(model.path, tmp_path / "packed", "awq")
    path = tmp_path / "packed" / "model.safetensors"
    whole = load_file(path)
    module = "model.layers.0.mlp.up_proj"
    damages = {
        "is missing or no matrix": {name: tensor for name, tensor in whole.items() if name != f"{module}.scales"},
        "do not fit together": whole | {f"{module}.qzeros": whole[f"{module}.qzeros"][:, :1].contiguous()},
        "is not finite in float16": whole | {f"{module}.scales": torch.full_like(whole[f"{module}.scales"], torch.inf)},
        "no tensor is named like": {name: tensor for name, tensor in whole.items() if not name.endswith(".qweight")},
    }
    for message, tensors in damages.items():
        save_file(tensors, path, {"format": "pt"})
        with pytest.raises(ValueError, match=message):
            ingest_model.run(IngestModelConfig(source=f"folder:{path.parent}"), NoInputs(), tmp_path)


def test_code_in_a_packed_folder_is_refused_before_it_is_read(
    store: Store, model: ModelArtifact, tmp_path: Path
) -> None:
    packed_folder(model.path, tmp_path / "packed", "awq")
    (tmp_path / "packed" / "modeling.py").write_text("raise SystemExit")
    with pytest.raises(ValueError, match=r"modeling.py can run code"):
        ingest(store, f"folder:{tmp_path / 'packed'}")
