"""The tiny recipe through the command line: everything is built, tracked and reported, and the second time reused."""

from __future__ import annotations

import itertools
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from attar.pipelines.cli.main import app
from attar.pipelines.recipe.file import shipped_recipes
from attar.pipelines.recipe.whole import load_recipe
from attar.registry.tracking.mlflow_home import open_client
from tests.system.operated import attar, attar_here

Environment = dict[str, str]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, clean_environment: Environment) -> Environment:
    home = tmp_path_factory.mktemp("run") / "home"
    return clean_environment | {"ATTAR_HOME": str(home), "PYTHONPATH": os.getcwd()}


@pytest.fixture(scope="module")
def home(environment: Environment) -> Path:
    return Path(environment["ATTAR_HOME"])


@pytest.fixture(scope="module")
def first(environment: Environment) -> dict[str, Any]:
    """The first run, which builds every node."""
    done = attar(environment, "run", "tiny", "--json")
    assert done.returncode == 0, done.stderr
    # its own lines and how it ended: what libraries print has a log of its own
    assert [line for line in done.stderr.splitlines() if not re.match(r"\d\d:\d\d:\d\d |run \S+ took ", line)] == []
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def served(
    environment: Environment, first: dict[str, Any], home: Path, serve_prefect: Callable[[Path], Environment]
) -> Environment:
    """The same home with a Prefect server that stays up."""
    return environment | serve_prefect(home)


def states(run: dict[str, Any]) -> set[str]:
    return {node["state"] for node in run["nodes"].values()}


def test_first_run_builds_every_node_and_its_report(first: dict[str, Any], home: Path) -> None:
    assert states(first) == {"Completed"}
    assert set(first["nodes"]) == set(load_recipe("tiny").nodes)
    assert Path(first["report"]).is_relative_to(home)
    page = Path(first["report"]).read_text()
    for part in (
        "Before and after",
        "Score of each window",
        "Loss (student_a)",
        "Retention",
        "Share of the original's accuracy, by task",
        "<th>healed (torch)</th><th>onnx (onnx)</th>",
        "Drafting for the original",
        "0 of 2 (float32)",
        "Answers side by side",
        "Lineage",
        "Environment",
    ):
        assert part in page
    assert "<script src" not in page and "<link" not in page, "self-contained"
    assert [row["model"].split()[0] for row in first["table"]] == ["original", "healed", "onnx"]


def test_independent_nodes_overlap(first: dict[str, Any]) -> None:
    spans = {name: (n["started_seconds"], n["started_seconds"] + n["seconds"]) for name, n in first["nodes"].items()}
    sources = sorted(spans[name] for name in ("original", "questions", "choices", "prose"))
    assert any(later[0] < earlier[1] for earlier, later in itertools.pairwise(sources))
    assert spans["pruned"][0] >= spans["block_scan"][1], "what depends waits"


def test_everything_a_run_leaves_lies_under_its_home(first: dict[str, Any], home: Path) -> None:
    assert [path.name for path in home.parent.iterdir()] == ["home"]
    assert {path.name for path in home.iterdir()} >= {"store", "runs", "mlflow.db", "mlartifacts", "prefect"}
    assert not list((home / "work").iterdir())


def test_prefect_has_one_flow_run_with_a_task_run_a_node(first: dict[str, Any], home: Path) -> None:
    with sqlite3.connect(home / "prefect" / "prefect.db") as database:
        tasks = database.execute(
            "select name, state_name from task_run where flow_run_id = ?", (first["prefect_flow_run_id"],)
        ).fetchall()
        artifacts = database.execute("select key, type from artifact").fetchall()
        progress = database.execute("select data, description from artifact where type = 'progress'").fetchall()
    assert dict(tasks) == dict.fromkeys(first["nodes"], "Completed")
    assert {("before-after", "table"), ("report", "markdown")} <= set(artifacts)
    assert all(float(data) == 100 and description.endswith(": done") for data, description in progress)


def test_mlflow_has_a_parent_run_with_a_child_a_node(
    first: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client = open_client(home)
    parent = client.get_run(first["mlflow_run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["attar.recipe_hash"] == first["recipe_fingerprint"]
    assert parent.data.metrics["healed_scores/perplexity"] > 0
    assert parent.data.params["pruned.num_blocks"] == "1" and parent.data.params["student_b.schedule.seed"] == "1"
    assert "pruned.metric" not in parent.data.params, "what the recipe leaves alone would hide what it has chosen"
    children = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    by_name = {run.info.run_name: run for run in children}
    assert set(by_name) == set(first["nodes"])
    student = by_name["student_a"]
    assert student.data.params["adapt.rank"] == "4" and student.data.params["objectives.forward_kl"] == "1.0"
    history = client.get_metric_history(student.info.run_id, "train_forward_kl_nats")
    assert [point.step for point in history] == list(range(1, len(history) + 1)) and len(history) >= 2
    assert [entry.dataset.source_type for entry in student.inputs.dataset_inputs] == ["attar"]
    for name, run in by_name.items():
        assert run.data.tags["attar.fingerprint"] == first["nodes"][name]["fingerprint"]
        assert run.data.tags["attar.key"] == first["nodes"][name]["key"]
    assert [artifact.path for artifact in client.list_artifacts(parent.info.run_id)] == ["report.html"]
    version = client.get_model_version_by_alias("tiny", "champion")
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    assert {metric.key for metric in model.metrics} >= {"model/accuracy", "onnx/perplexity"}
    assert model.model_type == "causal-lm"


def test_data_cards_lie_in_the_runs_of_their_nodes(
    first: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    cards = data_cards(home, first)
    assert set(cards) == {"rewritten", "clean", "drawn"}
    for name, card in cards.items():
        assert card["num_rows"] == sum(card["provenance"].values()) > 0
        scored = card["loss_under_original"]
        assert scored is None if name == "drawn" else scored["reference_nats"] > 0


def data_cards(home: Path, run: dict[str, Any]) -> dict[str, Any]:
    """The data card of each node that has one, read from MLflow."""
    client = open_client(home)
    parent = client.get_run(run["mlflow_run_id"]).info
    cards = {}
    for node in client.search_runs([parent.experiment_id], f"tags.mlflow.parentRunId = '{parent.run_id}'"):
        paths = {artifact.path for artifact in client.list_artifacts(node.info.run_id, "data_card")}
        if paths:
            assert paths == {"data_card/data_card.json", "data_card/data_card.md"}
            card = client.download_artifacts(node.info.run_id, "data_card/data_card.json")
            cards[node.info.run_name] = json.loads(Path(card).read_text())
    return cards


def test_second_run_reuses_every_node(
    first: dict[str, Any], served: Environment, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = attar_here(served, "run", "tiny", "--json")
    again = json.loads(done.stdout)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert data_cards(home, again) == data_cards(home, first), "a reused data set has its card too"
    assert done.returncode == 0 and states(again) == {"Cached"}
    assert {name: node["key"] for name, node in again["nodes"].items()} == {
        name: node["key"] for name, node in first["nodes"].items()
    }
    with sqlite3.connect(home / "prefect" / "prefect.db") as database:
        shown = database.execute(
            "select distinct state_name from task_run where flow_run_id = ?", (again["prefect_flow_run_id"],)
        )
        assert shown.fetchall() == [("Cached",)]


def test_flipped_byte_is_found_and_only_that_node_is_built_again(
    first: dict[str, Any], served: Environment, home: Path
) -> None:
    node = first["nodes"]["pruned"]
    weights = home / "store" / "prune" / node["key"] / "content" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 0xFF
    weights.write_bytes(content)
    done = attar_here(served, "run", "tiny", "--json", "--until", "healed")
    run = json.loads(done.stdout)
    assert done.returncode == 0
    assert {name for name, node in run["nodes"].items() if node["state"] == "Completed"} == {"pruned"}
    assert run["nodes"]["pruned"]["fingerprint"] == node["fingerprint"], "the same bytes came out again"
    log = Path(run["folder"]) / "logs" / "pruned.log"
    assert "warning: stored prune artifact" in done.stderr
    assert "model.safetensors has changed since it was sealed" in done.stderr and log.exists()


def test_from_builds_a_node_and_what_follows_again(first: dict[str, Any], served: Environment) -> None:
    plan = json.loads(attar_here(served, "plan", "tiny", "--json", "--from", "block_scan", "--until", "pruned").stdout)
    assert {row["node"]: row["state"] for row in plan} == {
        "original": "hit",
        "questions": "hit",
        "block_scan": "forced",
        "pruned": "forced",
    }
    done = attar_here(served, "run", "tiny", "--json", "--from", "block_scan", "--until", "pruned")
    made = {name: node["state"] for name, node in json.loads(done.stdout)["nodes"].items()}
    assert made == {"original": "Cached", "questions": "Cached", "block_scan": "Completed", "pruned": "Completed"}


@pytest.mark.parametrize("debug", [[], ["--debug"]], ids=["plain", "debug"])
def test_failing_stage_says_node_cause_and_how_to_resume(
    environment: Environment, served: Environment, debug: list[str]
) -> None:
    # a fact that only the model itself can contradict
    mistake = ("--set", "original.config.expect={num_blocks: 4, num_parameters: 7}")
    done = attar_here(served, "run", "tiny", "--until", "pruned", *mistake, *debug)
    assert done.returncode == 1
    assert "node 'original' (ingest_model) failed: expect.num_parameters is 7, but the model has" in done.stdout
    assert "run the same command again to go on from here" in done.stdout
    assert "skipped: a node before it failed" in done.stdout
    assert ("Traceback" in done.stdout + done.stderr) is bool(debug)


def test_broken_tracking_does_not_cost_an_artifact(served: Environment, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "mlflow.db").write_text("this is no database")
    broken = served | {"ATTAR_HOME": str(home)}
    done = attar_here(broken, "run", "tiny", "--json", "--until", "pruned")
    run = json.loads(done.stdout)
    assert done.returncode == 0 and states(run) == {"Completed"}
    assert run["mlflow_run_id"] == ""
    assert "warning: MLflow tracking failed in start" in done.stderr


def test_listing_showing_reporting_and_pulling(
    first: dict[str, Any], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTAR_HOME", str(home))

    def output(*arguments: str) -> Any:
        return json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)

    assert {row["stage"] for row in output("list", "stages")} >= {"ingest_model", "prune", "register"}
    assert {row["method"] for row in output("list", "methods")} >= {"angular_distance", "forward_kl", "slerp"}
    assert {row["recipe"] for row in output("list", "recipes")} == set(shipped_recipes())
    kinds = {"model", "adapter", "dataset", "scan", "onnx", "evaluation", "release"}
    assert {row["kind"] for row in output("list", "artifacts")} >= kinds
    shown = output("show", first["nodes"]["healed"]["key"][:16])
    assert [parent["stage"] for parent in shown["lineage"]["inputs"]] == ["prune", "finetune", "finetune"]
    assert output("report", first["id"])["report"] == first["report"]
    pulled = output("pull", "tiny@champion", str(tmp_path / "tiny"))
    assert (Path(pulled["folder"]) / "model" / "config.json").exists() and (
        Path(pulled["folder"]) / "onnx" / "model.onnx"
    ).exists()
    for arguments in (
        ("list", "stages"),
        ("show", first["nodes"]["onnx"]["key"][:16]),
        ("plan", "tiny"),
        ("gc", "--dry-run"),
    ):
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == 0 and done.stdout.strip()


@pytest.mark.slow  # that two processes build an artifact once is tested on the store itself in every run
def test_two_runs_at_once_build_each_artifact_once(served: Environment, tmp_path: Path) -> None:
    shared = served | {"ATTAR_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "attar.pipelines", "run", "tiny", "--json", "--until", "pruned"]
    runs = [
        subprocess.Popen(command, env=shared, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=250) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    records = [json.loads(out) for out, _ in outputs]
    for name in records[0]["nodes"]:
        assert sorted(record["nodes"][name]["state"] for record in records) == ["Cached", "Completed"]


def test_a_recipe_of_ones_own_by_path(served: Environment, tmp_path: Path) -> None:
    recipe = {
        "nodes": {
            "m": {"stage": "ingest_model", "config": {"source": "random:gpt2?num_blocks=3"}},
            "p": {"stage": "prune", "config": {"blocks": [1]}, "inputs": {"model": "m"}},
        }
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe))
    run = json.loads(attar_here(served, "run", str(path), "--json").stdout)
    assert run["recipe"] == "mine" and states(run) == {"Completed"}
