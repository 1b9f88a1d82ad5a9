"""The recipe `packed`, node by node on a tiny model: two folders of packed weights, and the one in 4 bits measured beside the original."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from attar.pipelines.recipe.file import shipped_recipes
from attar.pipelines.recipe.whole import build_recipe
from attar.registry.artifacts.handles import ModelArtifact
from tests.system.node_by_node import run_nodes

pytest.importorskip("compressed_tensors")


def test_both_folders_are_made_and_the_smaller_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path))
    document = yaml.safe_load(shipped_recipes()["packed"].read_text())
    nodes = document["nodes"]
    nodes["original"]["config"] = {"source": "random:llama?num_blocks=2&hidden_size=64"}
    nodes["questions"]["config"]["max_rows"] = 16
    for name in ("four_bits", "eight_bits"):
        form = nodes[name]["config"]["format"] | {"limits": {"max_kl_nats": 100.0}}
        form["calibration"] = {"num_samples": 4, "max_tokens": 24, "max_rows": 2}
        nodes[name]["config"] = {"format": form, "num_prompts": 1, "num_new_tokens": 4}
    for name in ("original_scores", "four_bits_scores"):
        nodes[name]["config"] = {
            "max_rows": 2,
            "max_new_tokens": 4,
            "num_samples": 0,
            "timing": {"num_prompt_tokens": 8},
        }
    del nodes["release"]
    made = run_nodes(build_recipe(document), tmp_path)
    four, eight = made["four_bits"], made["eight_bits"]
    assert isinstance(four, ModelArtifact) and isinstance(eight, ModelArtifact)
    assert four.facts.max_logit_difference == eight.facts.max_logit_difference == 0.0
    assert float(four.facts["bits_per_weight"]) < float(eight.facts["bits_per_weight"]) < 16
    scores = made["original_scores"].facts, made["four_bits_scores"].facts
    assert scores[0]["num_parameters"] == scores[1]["num_parameters"]
    assert float(scores[1]["disk_bytes"]) < 0.5 * float(scores[0]["disk_bytes"])
