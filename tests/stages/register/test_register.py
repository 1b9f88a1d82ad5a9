"""Registration: versions, aliases, the gate, and models that load from a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attar.registry.artifacts.environment import tracking_uri
from attar.registry.artifacts.handles import EvaluationArtifact, ModelArtifact
from attar.registry.artifacts.store import Slot, Store
from attar.registry.release.collect import collect_garbage
from attar.registry.release.pull import download_model
from attar.registry.tracking.mlflow_home import open_client
from attar.registry.tracking.runs import Tracker
from attar.stages.artifacts.model.folder import load_model
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.register.stage import RegisterConfig, RegisterInputs, register

GATE = {"min_accuracy_retention": 0.9, "max_decode_latency_ratio": 1.0}


def scores(store: Store, key: str, accuracy: float, seconds: float, of: str) -> EvaluationArtifact:
    def build(workdir: Path) -> EvaluationArtifact:
        (workdir / "content" / "evaluation.json").write_text(
            json.dumps({"accuracy": accuracy, "seconds": seconds, "of": of})
        )
        return EvaluationArtifact.at(
            workdir / "content", accuracy=accuracy, decode_seconds_per_token=seconds, model_fingerprint=of
        )

    slot = Slot(stage="evaluate", version=1, config={}, inputs={})
    return store.get_or_build(slot, EvaluationArtifact, key, build).artifact


def ingest(store: Store, seed: int) -> ModelArtifact:
    return ingest_model.execute(IngestModelConfig(source=f"random:llama?seed={seed}"), NoInputs(), store).artifact


def release(store: Store, seed: int, accuracy: float):
    model = ingest(store, seed)
    inputs = RegisterInputs(
        model=model,
        evaluation=scores(store, f"candidate{seed}", accuracy, 0.04, model.fingerprint),
        baseline=scores(store, "baseline", 0.8, 0.05, "the original"),
    )
    return register.execute(RegisterConfig(name="small", gate=GATE), inputs, store).artifact


def aliases(store: Store) -> dict[str, str]:
    return {
        name: str(version) for name, version in open_client(store.root).get_registered_model("small").aliases.items()
    }


def test_aliases_follow_the_gate(store: Store) -> None:
    first = release(store, 1, accuracy=0.75)
    assert first.facts["is_champion"] is True and aliases(store) == {"candidate": "1", "champion": "1"}
    worse = release(store, 2, accuracy=0.5)
    assert worse.facts["is_champion"] is False and aliases(store) == {"candidate": "2", "champion": "1"}
    better = release(store, 3, accuracy=0.79)
    assert better.facts["is_champion"] is True
    assert aliases(store) == {"candidate": "3", "champion": "3", "previous": "1"}
    checks = json.loads((worse.path / "release.json").read_text())["checks"]
    assert [check["has_passed"] for check in checks] == [False, True]
    version = open_client(store.root).get_model_version("small", "3")
    assert version.tags["validation_status"] == "passed" and version.tags["attar.model_key"] == ingest(store, 3).key
    assert version.description.startswith("gate passed, accuracy 0.99x"), "for the list of versions"
    assert open_client(store.root).get_model_version("small", "2").description.startswith("gate failed, accuracy 0.6")


def test_a_repeated_registration_makes_no_second_version(store: Store) -> None:
    """What a crash between registering and sealing leaves: the version is there, the artifact is not."""
    made = release(store, 1, accuracy=0.75)
    store.remove(made)
    again = release(store, 1, accuracy=0.75)
    assert again.facts["version"] == "1"
    assert len(open_client(store.root).search_model_versions("name='small'")) == 1


def test_registered_model_loads_in_a_fresh_process(store: Store, clean_environment: dict[str, str]) -> None:
    release(store, 1, accuracy=0.75)
    script = (
        "import sys, mlflow; mlflow.set_tracking_uri(sys.argv[1]); "
        "pipeline = mlflow.transformers.load_model('models:/small@champion'); "
        "print(pipeline.model.lm_head.weight.double().sum().item())"
    )
    command = [sys.executable, "-c", script, tracking_uri(store.root)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment, check=True)
    expected = load_model(ingest(store, 1).path, "float32").lm_head.weight.double().sum().item()
    assert float(done.stdout.split()[-1]) == expected


def test_pulling_gives_a_folder_that_ingests_again(store: Store, tmp_path: Path) -> None:
    release(store, 1, accuracy=0.75)
    folder = download_model("models:/small@champion", tmp_path / "pulled")
    assert (folder / "MLmodel").exists() and load_model(folder / "model", "float32").config.num_hidden_layers == 4
    again = ingest_model.execute(IngestModelConfig(source="models:/small@champion"), NoInputs(), store).artifact
    assert again.facts["num_parameters"] == ingest(store, 1).facts["num_parameters"]
    with pytest.raises(ValueError, match="small@nobody"):
        download_model("models:/small@nobody", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_gc_keeps_what_a_registered_model_needs(store: Store) -> None:
    made = release(store, 1, accuracy=0.75)
    stray = ingest(store, 7)
    needed = {ingest(store, 1).key, made.key}
    listed = collect_garbage(store.root, keep_runs=0, is_dry_run=True)
    assert stray.key in {entry["key"] for entry in listed} and store.holds("ingest_model", stray.key)
    removed = {entry["key"] for entry in collect_garbage(store.root, keep_runs=0, is_dry_run=False)}
    assert stray.key in removed and not store.holds("ingest_model", stray.key)
    assert not needed & removed - {made.key}
    assert store.holds("ingest_model", ingest(store, 1).key)


def test_closing_a_dead_run_never_raises(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The next run closes what a killed one left, even where MLflow's database is broken by then."""
    (store.root / "mlflow.db").write_text("this is no database")
    Tracker(store.root).close_dead_run("0123456789abcdef")
    assert "MLflow tracking failed in close_dead_run" in caplog.text


def test_a_registry_that_does_not_answer_is_told_in_one_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ingest(store, 1)
    own_scores, foreign_scores = (
        scores(store, "mine", 0.8, 0.04, model.fingerprint),
        scores(store, "theirs", 0.8, 0.05, "the original"),
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ValueError, match="^the MLflow registry at http://127.0.0.1:9 does not answer: [^\n]*$"):
        register.execute(
            RegisterConfig(name="small"),
            RegisterInputs(model=model, evaluation=own_scores, baseline=foreign_scores),
            store,
        )
    assert not list((store.root / "store").glob("register/*"))
