"""The recipe `vocabulary`, node by node on a tiny model with words: fewer tokens, the same model over them, measured beside the original."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from attar.pipelines.recipe.file import shipped_recipes
from attar.pipelines.recipe.whole import build_recipe
from attar.stages.artifacts.model.folder import load_tokenizer
from tests.system.node_by_node import run_nodes
from tests.trained_tokenizers import byte_level, worded_model


def test_the_trimmed_model_is_the_original_over_its_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path))
    tokenizer = byte_level()
    worded_model(tokenizer, tie_word_embeddings=True).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    document = yaml.safe_load(shipped_recipes()["vocabulary"].read_text())
    nodes = document["nodes"]
    nodes["original"]["config"] = {"source": f"folder:{tmp_path / 'model'}"}
    nodes["trimmed"]["config"] = {"num_tokens": 420}
    for name in ("questions", "facts"):
        nodes[name]["config"]["max_rows"] = 16
    nodes["retention"]["config"] = {"max_rows": 4, "num_own_answers": 2, "max_new_tokens": 6, "precision": "float32"}
    for name in ("original_scores", "trimmed_scores"):
        nodes[name]["config"] = {
            "max_rows": 4,
            "max_new_tokens": 6,
            "num_samples": 0,
            "timing": {"num_prompt_tokens": 8},
        }
    del nodes["release"]
    made = run_nodes(build_recipe(document), tmp_path)
    assert made["trimmed"].facts["vocab_size"] == len(load_tokenizer(made["trimmed"].path)) == 420
    comparison = json.loads((made["retention"].path / "comparison.json").read_text())
    assert set(comparison) >= {"prose", "questions", "own_answers"}
    for measures in comparison.values():
        if "kl_nats" in measures:
            assert abs(measures["kl_nats"]["value"]) < 1e-5
    sizes = [float(made[name].facts["num_parameters"]) for name in ("original_scores", "trimmed_scores")]
    assert sizes[0] - sizes[1] == 60 * 32
    assert float(made["trimmed_scores"].facts["bits_per_byte"]) > 0
