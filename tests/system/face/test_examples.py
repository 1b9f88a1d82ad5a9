"""Every example runs as it stands, in an empty folder and without a network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from attar.pipelines.recipe.whole import load_recipe

ROOT = Path(__file__).parents[3]
Environment = dict[str, str]
# what each prints of its results
PRINTED = {
    "own_recipe.py": r"Plan of own-recipe.*smaller +accuracy|smaller +perplexity",
    "stages_on_folders.py": r"4 blocks, then 3",
    "sweep_cuts.py": r"(without block \d: \d+,\d+ parameters.*){3}",
}


@pytest.fixture
def environment(tmp_path: Path, clean_environment: Environment) -> Environment:
    """No proxy and no hub: what asks the network fails."""
    offline = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}
    return clean_environment | offline | {"ATTAR_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}


def test_every_example_is_tried() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(PRINTED)
    assert len(list((ROOT / "examples").glob("*.ipynb"))) == len(list((ROOT / "examples").glob("*.yaml"))) == 1


def test_the_recipe_for_photographs_is_whole(tmp_path: Path) -> None:
    paths = {node: tmp_path / f"{node}.parquet" for node in ("photos", "tests")}
    for path in paths.values():
        path.touch()  # a plan asks whether they are there
    overrides = [f"{node}.config.source=parquet:{path}" for node, path in paths.items()]
    recipe = load_recipe(str(ROOT / "examples" / "flowers.yaml"), overrides)
    assert "thinner" in recipe.nodes and "release" in recipe.nodes


@pytest.mark.slow
@pytest.mark.parametrize("name", PRINTED)
def test_an_example_runs_as_it_stands(name: str, environment: Environment, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    command = [sys.executable, str(ROOT / "examples" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(PRINTED[name], done.stdout, re.DOTALL), done.stdout


@pytest.mark.slow
def test_the_notebook_runs_cell_by_cell(environment: Environment, tmp_path: Path) -> None:
    """Its code cells in their order, in one process, the value of each last line shown as a notebook shows it."""
    notebook = json.loads((ROOT / "examples" / "first_steps.ipynb").read_text())
    assert all(not cell.get("outputs") for cell in notebook["cells"]), "kept without outputs"
    script = tmp_path / "cells.py"
    script.write_text(RUNNER)
    path = str(ROOT / "examples" / "first_steps.ipynb")
    done = subprocess.run(
        [sys.executable, str(script), path], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("<table>") >= 3
    assert "Plan of tiny" in done.stdout and "config.num_bloks: unknown field" in done.stdout


RUNNER = """
import ast, json, sys

names = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] != "code":
        continue
    body = ast.parse("".join(cell["source"])).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        print(value._repr_html_() if hasattr(value, "_repr_html_") else repr(value))
"""
