"""Hub names as people copy them are refused with the line that works; a hub that does not answer is told by the plan."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attar.pipelines.cli.cautions import cautions
from attar.pipelines.recipe.plan import make_plan
from attar.pipelines.recipe.whole import build_recipe, load_recipe
from attar.registry.artifacts.store import Store
from attar.stages.ingest.data import IngestDataConfig
from attar.stages.ingest.hub_id import hub_cure
from attar.stages.ingest.source_line import parse_source

COPIED = {
    "hub:https://huggingface.co/o/n": "hub:o/n@main",
    "https://huggingface.co/o/n": "hub:o/n@main",
    "http://www.huggingface.co/o/n/": "hub:o/n@main",
    "https://huggingface.co/o/n/tree/main": "hub:o/n@main",
    "https://huggingface.co/o/n/tree/v1.0": "hub:o/n@v1.0",
    "https://huggingface.co/o/n/blob/abc123/config.json": "hub:o/n@abc123",
    "https://huggingface.co/o/n/resolve/main/model.safetensors?download=true": "hub:o/n@main",
    "https://huggingface.co/o/n?library=transformers#use": "hub:o/n@main",
    "https://huggingface.co/datasets/o/n/viewer/default/train": "hub:o/n@main",
    "https://huggingface.co/o/n.git": "hub:o/n@main",
    "git@hf.co:o/n": "hub:o/n@main",
    "hf.co/o/n": "hub:o/n@main",
    "hf://o/n": "hub:o/n@main",
    "hf://models/o/n@v2": "hub:o/n@v2",
    "hf://datasets/o/n@v1/data/x.parquet": "hub:o/n@v1",
    "hf:o/n": "hub:o/n@main",
    "hub:o/n": "hub:o/n@main",
    "hub:o/n/": "hub:o/n@main",
    "hub:o/n@": "hub:o/n@main",
    "hub:o/n@main/": "hub:o/n@main",
    "hub:o/n@refs/pr/3/": "hub:o/n@refs/pr/3",
    "hub: o/n@x": "hub:o/n@x",
    "hub:o/n:main": "hub:o/n@main",
    "hub:o/n/tree/main": "hub:o/n@main",
    "o/n": "hub:o/n@main",
    "o/n@main": "hub:o/n@main",
    "hub:gpt2": "hub:OWNER/gpt2@main",
    "https://huggingface.co/gpt2": "hub:OWNER/gpt2@main",
}


@pytest.mark.parametrize("copied", COPIED)
def test_a_copied_name_is_refused_with_the_line_that_works(copied: str) -> None:
    for refuse in (parse_source, lambda source: IngestDataConfig(source=source)):
        with pytest.raises(ValueError) as refused:
            refuse(copied)
        assert COPIED[copied] in re.split(r"[\s,;]", str(refused.value)), str(refused.value)
    assert parse_source(COPIED[copied]).parts["repo"] and IngestDataConfig(source=COPIED[copied])


@pytest.mark.parametrize(
    "source", ["s3:bucket", "./a/b", "/o/n", "folder:/x/y", "C:/x/y", "https://example.com/o/n", "", "x" * 100_000]
)
def test_what_is_no_name_of_a_hub_gets_no_cure(source: str) -> None:
    assert hub_cure(source, is_model=True) == ""


def test_a_plan_tells_that_the_hub_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {"m": {"stage": "ingest_model", "config": {"source": "hub:o/n@main"}}}
    plan = make_plan(build_recipe({"nodes": nodes}), Store(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    [line] = cautions(plan)
    assert (
        line.startswith("the hub at http://127.0.0.1:9 does not answer (ConnectError") and "'m' (hub:o/n@main)" in line
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in cautions(plan)[0]
    assert cautions(make_plan(load_recipe("tiny"), Store(tmp_path))) == [], "where no hub is needed none is asked"


@pytest.mark.parametrize(("num_blocks", "is_told"), [(3, False), (4, True)])
def test_a_cut_past_a_third_of_the_blocks_is_warned_of(num_blocks: int, is_told: bool, tmp_path: Path) -> None:
    original = {"stage": "ingest_model", "config": {"source": "random:llama?num_blocks=9&hidden_size=16"}}
    cut = {"stage": "prune", "config": {"blocks": list(range(num_blocks))}, "inputs": {"model": "a"}}
    lines = cautions(make_plan(build_recipe({"nodes": {"a": original, "b": cut}}), Store(tmp_path)))
    assert [line.startswith("node 'b' removes 4 of 9 blocks (44%)") for line in lines] == [True] * is_told


@pytest.mark.parametrize(("share", "num_left"), [(0.8, 8), (0.75, 7), (0.99, 9)])
def test_a_share_of_the_blocks_is_known_before_anything_runs(share: float, num_left: int, tmp_path: Path) -> None:
    nodes = {
        "a": {"stage": "ingest_model", "config": {"source": "random:llama?num_blocks=10&hidden_size=16"}},
        "d": {"stage": "ingest_data", "config": {"source": "text:shipped/prose.txt"}},
        "s": {"stage": "scan", "inputs": {"model": "a", "data": "d"}},
        "p": {"stage": "prune", "config": {"keep_fraction": {"blocks": share}}, "inputs": {"model": "a", "scan": "s"}},
    }
    plan = {entry.node.name: entry for entry in make_plan(build_recipe({"nodes": nodes}), Store(tmp_path))}
    assert plan["p"].facts["num_blocks"] == num_left
