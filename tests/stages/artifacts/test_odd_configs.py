"""A model folder's JSON: plain files of bounded size and depth that describe a model of this world, or one line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from attar.registry.artifacts.handles import ModelArtifact
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.model.safe_folder import MAX_COUNTS, refuse_unsafe


@pytest.fixture
def folder(model: ModelArtifact, tmp_path: Path) -> Path:
    """A local model folder of the user's, free to be damaged."""
    copy = tmp_path / "my_model"
    shutil.copytree(model.path, copy, ignore=shutil.ignore_patterns("records"))
    return copy


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"])
def test_a_pipe_in_place_of_a_file_is_refused_and_never_opened(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=f"{name} is no plain file; refused"):
        refuse_unsafe(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "holds a list, not a JSON object"),
        ("null", "holds a NoneType, not a JSON object"),
        ("{", "is not JSON"),
        ('{"a": ' * 100 + "1" + "}" * 100, "is nested more than 64 deep"),
        ('{"a": ' * 5000 + "1" + "}" * 5000, "is nested more than 64 deep"),
        (json.dumps({"a": "x" * 4_000_000}), "bytes; accepted: 4,000,000 at most"),
    ],
)
def test_a_config_that_is_none_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        refuse_unsafe(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 100_000}, f"says num_hidden_layers 100000; accepted: {MAX_COUNTS['block']:,} blocks"),
        ({"text_config": {"num_local_experts": 1e9}}, "says num_local_experts 1e[+]09"),
        ({"vocab_size": 10**12}, r"of another shape .* for \(1000000000000, 64\)"),
        ({"num_hidden_layers": "4"}, "transformers cannot load it: .*expected int, got str"),
        ({"num_attention_heads": 0}, "transformers cannot load it: ZeroDivisionError"),
        ({"hidden_act": "none such"}, "transformers cannot load it: KeyError: 'none such'"),
        ({"transformers_weights": "../x.safetensors"}, "names weights of its own"),
        ({"architectures": [1]}, "is no list of names"),
    ],
)
def test_sizes_that_would_stall_and_values_of_another_kind_are_refused_in_one_line(
    folder: Path, values: dict[str, object], message: str
) -> None:
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message) as refused:
        load_model(folder, "auto")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 900
