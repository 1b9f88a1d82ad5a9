"""`attar init`: what it writes loads and plans, explains itself, and what cannot be is refused in a line before a file is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft7Validator
from typer.testing import CliRunner

import attar
from attar.pipelines.cli.main import app
from attar.pipelines.recipe.file import read_document
from attar.stages.catalogue import STAGES

MODEL = "random:llama?num_blocks=4&hidden_size=64&seed=0"
QUICK = ["--model", MODEL, "--questions", "reasoning_gym:chain_sum", "--rows", "20", "--num-blocks", "1"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "options",
    [[], ["--heal", "none"], ["--heal", "full", "--no-rewrite"], ["--no-onnx", "--name", "mine"]],
    ids=lambda options: " ".join(options) or "plain",
)
def test_what_it_writes_loads_plans_and_is_valid(options: list[str], folder: Path) -> None:
    done = CliRunner().invoke(app, ["init", "mine.yaml", *QUICK, *options])
    assert done.exit_code == 0, done.output
    assert "attar run mine.yaml" in done.stdout
    plan = attar.plan("mine.yaml")
    assert plan.nodes[0].state == "miss" and {"original", "questions", "release"} <= {
        node.node.name for node in plan.nodes
    }
    schema = json.loads((folder / "recipe.schema.json").read_text())
    assert Draft7Validator(schema).is_valid(read_document("mine.yaml"))


def test_every_stage_and_field_is_explained_once(folder: Path) -> None:
    CliRunner().invoke(app, ["init", "mine.yaml", *QUICK])
    lines = (folder / "mine.yaml").read_text().splitlines()
    assert lines[0] == "# yaml-language-server: $schema=recipe.schema.json"
    text = " ".join(line.strip().removeprefix("# ") for line in lines)
    for name in {node["stage"] for node in read_document("mine.yaml")["nodes"].values()}:
        assert text.count(STAGES[name].summary) == 1


def test_a_folder_and_a_file_need_no_scheme(folder: Path) -> None:
    attar.stages.ingest_model(source=MODEL, output=folder / "model")
    (folder / "sums.jsonl").write_text('{"question": "1 plus 1?", "answer": "2"}\n' * 20)
    done = CliRunner().invoke(
        app, ["init", "mine.yaml", "--model", "model", "--questions", "sums.jsonl", "--num-blocks", "1"]
    )
    assert done.exit_code == 0, done.output
    nodes = read_document("mine.yaml")["nodes"]
    assert nodes["original"]["config"]["source"] == "folder:model"
    assert nodes["questions"]["config"]["source"] == "jsonl:sums.jsonl"


def test_its_answer_for_scripts(folder: Path) -> None:
    done = CliRunner().invoke(app, ["init", "mine.yaml", *QUICK, "--json"])
    assert json.loads(done.stdout) == {"recipe": "mine.yaml", "name": "my-small-model"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "./nowhere"], "nowhere does not exist"),
        (["--model", "nowhere"], "model is 'nowhere'"),
        (["--questions", "no.jsonl"], "no.jsonl does not exist"),
        (["--num-blocks", "4"], "num_blocks"),
        (["--name", "a/b"], "name is 'a/b'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line_and_nothing_is_written(
    options: list[str], message: str, folder: Path
) -> None:
    done = CliRunner().invoke(app, ["init", "mine.yaml", *QUICK, *options])
    assert done.exit_code == 2
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("attar: ") and message in line
    assert list(folder.glob("*.yaml")) == []


def test_a_file_that_is_there_stays_unless_forced(folder: Path) -> None:
    (folder / "mine.yaml").write_text("mine")
    refused = CliRunner().invoke(app, ["init", "mine.yaml", *QUICK])
    assert (
        refused.exit_code == 2 and "is there already" in refused.stderr and (folder / "mine.yaml").read_text() == "mine"
    )
    assert CliRunner().invoke(app, ["init", "mine.yaml", *QUICK, "--force"]).exit_code == 0
    assert "nodes:" in (folder / "mine.yaml").read_text()
