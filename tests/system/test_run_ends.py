"""How a run ends where something beside its nodes goes wrong: it goes on where it can, and never says that it is done where it is not.

And where a stage finds what the plan could not see: one line, exit code 1, nothing half-written.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from transformers import BloomConfig, BloomForCausalLM

from attar.registry.tracking.run_record import RunRecord, new_run_folder, open_runs
from attar.stages.ingest.tiny_model import byte_tokenizer
from tests.databases import copy_database
from tests.system.forked import attar_forked
from tests.system.operated import Environment, attar_here, write_recipe

TINY = "random:llama?num_blocks=2&hidden_size=32"
PROOF = {"num_prompts": 1, "num_new_tokens": 4}
PROSE = ("run", "wee.yaml", "--until", "prose", "--json")


@pytest.fixture(scope="module")
def environment(
    tmp_path_factory: pytest.TempPathFactory,
    clean_environment: Environment,
    serve_prefect: Callable[[Path], Environment],
    mlflow_database: Path,
) -> Environment:
    workspace = tmp_path_factory.mktemp("ends")
    write_recipe(workspace)
    home = workspace / "home"
    copy_database(mlflow_database, home / "mlflow.db")
    return clean_environment | serve_prefect(home) | {"ATTAR_HOME": str(home), "PYTHONPATH": os.getcwd()}


def test_a_record_that_was_tampered_with_keeps_no_run_from_its_work(environment: Environment) -> None:
    home = Path(environment["ATTAR_HOME"])
    dead = RunRecord(new_run_folder(home, "old"), "old", "f" * 8, {}, prefect_flow_run_id="none")
    dead.pid = max(psutil.pids()) + 1_000_000
    dead.save()
    done = attar_forked(environment, *PROSE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["nodes"]["prose"]["state"] == "Completed"
    assert f"run {dead.id} had been stopped or killed: closing it" in done.stderr
    assert "Traceback" not in done.stderr and not open_runs(home)


def test_a_run_that_failed_beside_its_nodes_says_so_and_exits_with_1(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was: the flow's state alone knows of it, and no node."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(Path(environment["ATTAR_HOME"]).parent)
    monkeypatch.setattr("attar.pipelines.run.flow.close_dead_runs", refuse)
    done = attar_here(environment, *PROSE)
    assert done.returncode == 1
    assert "attar: OSError: [Errno 28] No space left on device" in done.stderr


@pytest.fixture(scope="module")
def failed(
    environment: Environment, tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One run whose independent branches fail: a family without a graph, a provider that is not there."""
    workspace = tmp_path_factory.mktemp("failed")
    home = workspace / "home"
    copy_database(mlflow_database, home / "mlflow.db")
    # it biases attention by distance (ALiBi)
    BloomForCausalLM(BloomConfig(vocab_size=259, hidden_size=32, n_layer=2, n_head=2)).save_pretrained(
        workspace / "alibi"
    )
    byte_tokenizer().save_pretrained(workspace / "alibi")
    (workspace / "rows.jsonl").write_text(json.dumps({"question": "What is 1 plus 1?", "answer": "2"}))
    data = {"stage": "ingest_data", "config": {"source": f"jsonl:{workspace}/rows.jsonl", "heldout_fraction": 0.0}}
    nodes = {
        "rows": data,
        "alibi": ingest(f"folder:{workspace}/alibi"),
        "no_graph": {"stage": "export", "config": PROOF, "inputs": {"model": "alibi", "data": "rows"}},
        "tiny": ingest(TINY),
        "graph": {"stage": "export", "config": PROOF, "inputs": {"model": "tiny", "data": "rows"}},
        "no_device": {
            "stage": "evaluate",
            "config": {"provider": "TensorrtExecutionProvider"},
            "inputs": {"model": "graph", "tasks": ["rows"]},
        },
    }
    (workspace / "bad.yaml").write_text(yaml.safe_dump({"nodes": nodes}))
    return home, attar_forked(environment | {"ATTAR_HOME": str(home)}, "run", "bad.yaml")


def ingest(source: str) -> dict[str, Any]:
    return {"stage": "ingest_model", "config": {"source": source}}


@pytest.mark.parametrize(
    "line",
    [
        "node 'no_graph' (export) failed: BloomForCausalLM takes no position_ids or no cache; it has no cached graph",
        "node 'no_device' (evaluate) failed: provider 'TensorrtExecutionProvider' is not in this onnxruntime; available: ",
    ],
    ids=["unsupported operator", "provider not available"],
)
def test_what_only_a_stage_can_see_ends_with_1(
    line: str, failed: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    _, done = failed
    assert done.returncode == 1, done.stderr
    lines = [printed for printed in done.stdout.splitlines() if printed.startswith(line.partition(" failed")[0])]
    assert len(lines) == 1 and lines[0].startswith(line)
    assert "Traceback" not in done.stdout + done.stderr


def test_a_failed_stage_leaves_nothing_half_written(failed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    home, _ = failed
    stored = {path.parent.name for path in (home / "store").glob("*/*")}
    assert stored == {"ingest_data", "ingest_model", "export"}, "nothing of evaluate"
    assert all((path / "manifest.json").exists() for path in (home / "store").glob("*/*"))
    assert len(list((home / "store").glob("*/*"))) == 4, "rows, two models, one graph"
    assert not [path for path in (home / "work").rglob("*") if path.is_file()], "nor in the work folder"
