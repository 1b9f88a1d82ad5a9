"""The recipes `classifier` and `tagger` from end to end by `attar run` on tiny models: versions are registered, whatever their gates say."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from attar.pipelines.recipe.file import shipped_recipes
from tests.databases import copy_database
from tests.system.operated import attar


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data", "version", "figure"),
    [
        ("classifier", "requests", "requests-3-blocks", "macro F1"),
        ("tagger", "reports", "repairs-3-blocks", "span F1"),
    ],
)
def test_the_recipe_runs_from_source_to_release(
    name: str,
    data: str,
    version: str,
    figure: str,
    tmp_path: Path,
    mlflow_database: Path,
    clean_environment: dict[str, str],
    serve_prefect: Callable[[Path], dict[str, str]],
) -> None:
    document = yaml.safe_load(shipped_recipes()[name].read_text())
    nodes = document["nodes"]
    nodes["original"]["config"] |= {"source": "random:bert?num_blocks=3&hidden_size=32", "expect": {"num_blocks": 3}}
    nodes[data]["config"]["max_rows"] = 120
    nodes["pruned"]["config"]["num_blocks"] = 1
    for lesson in ("lesson", "student"):
        nodes[lesson]["config"]["schedule"] |= {"num_epochs": 3, "learning_rate": 3e-3}
    nodes["small"]["config"]["limits"] = {"kind": "classes", "max_kl_nats": 1.0}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(document))
    home = tmp_path / "home"
    home.mkdir()
    copy_database(mlflow_database, home / "mlflow.db")
    environment = clean_environment | {"ATTAR_HOME": str(home), "PYTHONPATH": os.getcwd()} | serve_prefect(home)
    done = attar(environment, "run", str(tmp_path / "small.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    report = attar(environment, "report", "latest")
    assert report.returncode == 0 and figure in report.stdout, report.stdout + report.stderr
    pulled = attar(environment, "pull", f"{version}@candidate", str(tmp_path / "pulled"))
    assert pulled.returncode == 0 and (tmp_path / "pulled/onnx/model.onnx").exists(), pulled.stdout + pulled.stderr
