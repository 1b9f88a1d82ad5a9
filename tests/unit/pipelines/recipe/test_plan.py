"""The plan of the demo, before anything is fetched, against what a run of it left: bytes within 5%, FLOPs a token within 2%."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.pipelines.recipe.plan import PlannedNode, State, lack_of_disk, make_plan
from attar.pipelines.recipe.whole import load_recipe
from attar.registry.artifacts.store import Store
from attar.stages.contract import Forecast

# Bytes of the artifacts and FLOPs a token that `evaluate` counted in a run of the demo on SmolLM2-135M-Instruct (2 cores, torch 2.13.0,
# transformers 5.23.0), read from its manifests. The graph's are those of this export: 453,097,728 of weights, 3,658,271 of nodes.
MADE_BYTES = {"original": 541_614_977, "pruned": 456_646_625, "healed": 456_646_775, "onnx": 460_280_940}
COUNTED_FLOPS = {
    "original_scores": 277_807_104,
    "pruned_scores": 233_570_304,
    "healed_scores": 233_570_304,
    "onnx_scores": 233_570_304,
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict:
    plan = make_plan(load_recipe("demo"), Store(tmp_path_factory.mktemp("nothing")))
    return {entry.node.name: entry.as_dict() for entry in plan}


@pytest.mark.parametrize("node", MADE_BYTES)
def test_the_demos_sizes_are_told_before_anything_is_fetched(planned: dict, node: str) -> None:
    assert planned[node]["disk_bytes"] == pytest.approx(MADE_BYTES[node], rel=0.05)


@pytest.mark.parametrize("node", COUNTED_FLOPS)
def test_the_demos_flops_a_token_are_told_before_anything_is_fetched(planned: dict, node: str) -> None:
    assert planned[node]["flops_per_token"] == pytest.approx(COUNTED_FLOPS[node], rel=0.02)


def test_a_plan_that_does_not_fit_the_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def node(num_bytes: float, state: State = "waiting") -> PlannedNode:
        return PlannedNode(load_recipe("tiny").nodes["pruned"], state, "", Forecast(disk_bytes=num_bytes))

    monkeypatch.setattr("attar.pipelines.recipe.plan.free_bytes", lambda home: 13e9)
    assert lack_of_disk([node(6e9), node(7e9), node(40e9, "hit")], tmp_path) == ""
    assert lack_of_disk([node(6e9), node(7.2e9)], tmp_path).startswith(
        f"what is to be built takes at least 13.2 GB, 13.0 GB are free under {tmp_path}: attar gc, or ATTAR_HOME"
    )


def test_llama_is_cut_to_the_size_of_the_paper(tmp_path: Path) -> None:
    """8.03 billion parameters to 6.72, and 16.3% of the FLOPs of decoding (https://arxiv.org/abs/2410.09982, abstract)."""
    plan = {entry.node.name: entry for entry in make_plan(load_recipe("llama-3.1-8b"), Store(tmp_path))}
    before, after = plan["original"], plan["healed"]
    assert float(before.forecast.facts["num_parameters"]) == pytest.approx(8.03e9, abs=5e6)
    assert float(after.forecast.facts["num_parameters"]) == pytest.approx(6.72e9, abs=5e6)
    assert after.forecast.disk_bytes == pytest.approx(2 * 6.72e9, rel=0.001)
    assert 1 - after.flops_per_token / before.flops_per_token == pytest.approx(0.163, abs=0.015)
