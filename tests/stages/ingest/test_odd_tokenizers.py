"""Tokenizers that load and cannot be used, and names that would fill a screen: each is refused in one short line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.weight_files import named
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import random_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model, tokenizer = random_model("llama", num_blocks=2, hidden_size=32)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def without_a_letter(content: dict[str, Any]) -> None:
    content["model"]["vocab"]["Tx"] = content["model"]["vocab"].pop("T")
    content["model"]["unk_token"] = "<unk>"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokenizer_config.json", lambda content: content.update(model_max_length={"a": 1})),
        ("tokenizer.json", without_a_letter),
    ],
)
def test_a_tokenizer_that_cannot_cut_text_is_refused(
    name: str, change: Callable[[dict[str, Any]], None], folder: Path, store: Store
) -> None:
    changed(folder / name, change)
    with pytest.raises(
        ValueError, match="^the tokenizer cannot cut a probe of scripts, spaces and digits: "
    ) as refusal:
        ingest_model.execute(IngestModelConfig(source=f"folder:{folder}"), NoInputs(), store)
    assert "\n" not in str(refusal.value)


def test_a_very_long_name_of_a_tensor_does_not_fill_the_line(folder: Path, store: Store) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["x." * 2000] = tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="missing model.norm.weight; unexpected x.x.x.") as refusal:
        ingest_model.execute(IngestModelConfig(source=f"folder:{folder}"), NoInputs(), store)
    assert len(str(refusal.value)) < 600
    assert named(["a" * 121, "b" * 120], "tensors") == f"{'a' * 120}..., {'b' * 120}"
