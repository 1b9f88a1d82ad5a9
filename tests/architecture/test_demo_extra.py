"""The demo's environment: its recipe, made small, runs where only what the extra `demo` asks for is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# what the demo is known to do without, each a reason why its install is small
ABSENT = {"datasets", "lm-eval", "mlflow", "optuna", "pyarrow", "scikit-learn", "scipy"}
SMALL = """
import importlib, sys
from pathlib import Path
import yaml
from attar.pipelines.recipe.file import shipped_recipes
from attar.pipelines.recipe.whole import build_recipe
from attar.registry.artifacts.environment import configure_process
from tests.system.node_by_node import run_nodes
configure_process()
importlib.import_module("torch").set_num_threads(1)
document = yaml.safe_load(shipped_recipes()["demo"].read_text())
nodes = document["nodes"]
nodes["original"]["config"] = {"source": "random:llama?num_blocks=3&hidden_size=32"}
nodes["everyday"]["config"]["max_rows"] = 12
nodes["facts"]["config"]["max_rows"] = 4
nodes["block_scan"]["config"] = {"num_samples": 4, "max_tokens": 32}
nodes["pruned"]["config"] = {"num_blocks": 1}
nodes["rewritten"]["config"] = {"max_new_tokens": 4}
nodes["student"]["config"] |= {"num_epochs": 1, "rank": 2, "alpha": 4, "precision": "float32"}
nodes["onnx"]["config"] = {"num_prompts": 1, "num_new_tokens": 4}
for name in ("original_scores", "pruned_scores", "healed_scores", "onnx_scores"):
    nodes[name]["config"] |= {"max_new_tokens": 4, "timing": {"num_prompt_tokens": 8}}
nodes["release"]["config"]["gate"] = {"max_size_ratio": 1.0}
made = run_nodes(build_recipe(document), Path(sys.argv[1]))
for module in ("attar.pipelines.run.flow", "attar.pipelines.report.page", "attar.pipelines.report.charts"):
    importlib.import_module(module)
print(sorted(made))
"""


def asked_for(requirements: list[str], extras: frozenset[str] = frozenset()) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield (distribution, its extras) of requirements that hold here; those of our own extras in their place."""
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is not None and not any(
            requirement.marker.evaluate({"extra": extra}) for extra in {"", *extras}
        ):
            continue
        if requirement.name == "attar":
            for extra in requirement.extras:
                yield from asked_for(PROJECT["optional-dependencies"][extra])
        else:
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)


def installed_by(extra: str) -> set[str]:
    """Return the distributions that `pip install attar[extra]` brings, by what is installed here."""
    pending = list(asked_for([*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]))
    seen = set(pending)
    while pending:
        name, extras = pending.pop()
        try:
            requirements = metadata.distribution(name).requires or []
        except metadata.PackageNotFoundError:  # for another system or Python
            continue
        new = set(asked_for(requirements, extras)) - seen
        seen |= new
        pending += new
    return {name for name, _ in seen}


def lay_out(names: set[str], folder: Path) -> None:
    """Link what these distributions have into a folder, as it would look with them alone."""
    for name in names:
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."} - {"__pycache__"}:
            target = folder / top
            if not target.exists():
                target.symlink_to(Path(str(distribution.locate_file(top))))


def test_the_demos_extra_brings_nothing_heavy_that_it_does_not_run() -> None:
    names = installed_by("demo")
    assert not names & ABSENT and {"torch", "prefect", "mlflow-skinny", "onnxruntime"} <= names


@pytest.mark.slow
def test_the_demo_runs_on_what_its_extra_installs(tmp_path: Path, clean_environment: dict[str, str]) -> None:
    names = installed_by("demo")
    site = tmp_path / "site"
    site.mkdir()
    lay_out(names, site)
    environment = clean_environment | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)]),
        "ATTAR_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        [sys.executable, "-S", "-c", SMALL, str(tmp_path / "home")],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "release" in done.stdout
