"""The recipe `one-plan`, node by node on a tiny model with words: every axis measured, one plan carried out, measured beside the original."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from attar.pipelines.recipe.file import shipped_recipes
from attar.pipelines.recipe.whole import build_recipe
from attar.stages.scan.candidates import read_problem
from tests.system.node_by_node import run_nodes
from tests.trained_tokenizers import byte_level, worded_model


@pytest.mark.slow
def test_one_plan_over_every_axis_meets_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path))
    tokenizer = byte_level()
    worded_model(tokenizer, tie_word_embeddings=True).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    document = yaml.safe_load(shipped_recipes()["one-plan"].read_text())
    nodes = document["nodes"]
    nodes["original"]["config"] = {"source": f"folder:{tmp_path / 'model'}"}
    for name in ("questions", "facts"):
        nodes[name]["config"]["max_rows"] = 16
    nodes["candidates"]["config"]["candidates"] |= {"vocabulary_fractions": [0.9], "channel_step": 8}
    nodes["candidates"]["config"]["calibration"] = {"num_samples": 8, "max_tokens": 64}
    nodes["planned"]["config"]["patch"] |= {"num_samples": 8, "max_tokens": 64}
    nodes["retention"]["config"] = {"max_rows": 4, "num_own_answers": 2, "max_new_tokens": 6, "precision": "float32"}
    for name in ("original_scores", "planned_scores"):
        nodes[name]["config"] = {
            "max_rows": 4,
            "max_new_tokens": 6,
            "num_samples": 0,
            "timing": {"num_prompt_tokens": 8},
        }
    del nodes["release"]
    made = run_nodes(build_recipe(document), tmp_path)
    problem, _ = read_problem(made["candidates"].path)
    axes = {"depth", "seams", "seam_ends", "channels", "groups", "hidden", "vocabulary"}
    assert {item.axis for item in problem.items} <= axes and {item.axis for item in problem.items} >= axes - {"groups"}
    plan = json.loads((made["planned"].path / "records" / "plan.json").read_text())
    assert plan["left"]["parameters"] <= 0.85 * plan["totals"]["parameters"] and plan["measured_nats"] is not None
    assert int(made["planned"].facts["num_parameters"]) == pytest.approx(plan["left"]["parameters"], rel=1e-9)
    comparison = json.loads((made["retention"].path / "comparison.json").read_text())
    assert set(comparison) >= {"prose", "questions", "own_answers"}
