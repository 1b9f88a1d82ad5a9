"""The recipe of the recommended recovery, run node by node on a tiny random model with a text of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from attar.compressors.models.blocks import decoder_blocks
from attar.pipelines.recipe.file import shipped_recipes
from attar.pipelines.recipe.whole import Recipe, build_recipe
from attar.stages.artifacts.model.folder import load_model
from tests.system.node_by_node import run_nodes

STORY = "\n\n".join(f"On day {day} the boat came in at dawn with {day * 3} fish and left at noon." for day in range(40))


@pytest.fixture
def tiny(tmp_path: Path) -> Recipe:
    """The shipped recipe with every node and edge, its model and its amounts made small; without the registration at its end."""
    (tmp_path / "story.txt").write_text(STORY)
    document = yaml.safe_load(shipped_recipes()["recover"].read_text())
    nodes = document["nodes"]
    nodes["original"]["config"] = {"source": "random:llama?num_blocks=5&hidden_size=32"}
    nodes["questions"]["config"]["max_rows"] = 12
    nodes["texts"]["config"]["source"] = f"text:{tmp_path / 'story.txt'}"
    nodes["rewritten"]["config"] |= {"drawing": {"max_new_tokens": 8}, "batch_size": 8}
    nodes["block_scan"]["config"] = {"calibration": {"num_samples": 4, "max_tokens": 32}}
    nodes["refitted"]["config"]["patch"] |= {"num_samples": 16, "max_tokens": 64, "precision": "float32"}
    student = nodes["student"]["config"]
    student["schedule"] |= {"num_epochs": 8, "tokens_per_step": 256, "learning_rate": 2.0e-3}
    student["compute"] |= {"tokens_per_micro_batch": 256, "precision": "float32"}
    nodes["retention"]["config"] |= {"max_rows": 4, "num_own_answers": 2, "max_new_tokens": 8, "precision": "float32"}
    for name in ("original_scores", "healed_scores"):
        nodes[name]["config"] = {"num_samples": 0, "timing": {"num_prompt_tokens": 8}}
    del nodes["release"]
    return build_recipe(document)


def test_what_was_refitted_and_healed_comes_nearer_and_the_blocks_before_the_cut_stay(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path))
    made = run_nodes(tiny, tmp_path)
    assert [made[name].facts["num_blocks"] for name in ("original", "refitted", "healed")] == [5, 4, 4]
    comparison = json.loads((made["retention"].path / "comparison.json").read_text())
    for data in ("texts", "questions"):
        assert comparison["healed minus refitted"][data]["kl_nats"]["high"] < 0.0, data
    original, healed = (load_model(made[name].path, "float32") for name in ("original", "healed"))
    [cut] = made["refitted"].facts["removed_blocks"]
    for index in range(cut - 1):  # the block before the cut learns too
        for name, weight in decoder_blocks(original)[index].named_parameters():
            assert torch.equal(weight, decoder_blocks(healed)[index].get_parameter(name)), (index, name)
    assert made["healed_scores"].facts["perplexity"] > 1.0
