"""Bad input through the command line: one line that names it, the exit code, nothing half-written.

Code 2 is what the plan refuses, before anything runs; code 1, what only the stage itself can find, is in test_run_ends.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import BertConfig, BertForMaskedLM, BloomConfig, BloomForCausalLM
from typer.testing import CliRunner

from attar.pipelines.cli.main import app
from attar.stages.ingest.tiny_model import byte_tokenizer, random_model

TINY = "random:llama?num_blocks=2&hidden_size=32"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders that are no causal language model, lack a tokenizer, are cut off, or bias attention by distance (ALiBi)."""
    home = tmp_path_factory.mktemp("folders")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=259, **sizes)).save_pretrained(home / "encoder")
    model, tokenizer = random_model("llama", num_blocks=2, hidden_size=32)
    model.save_pretrained(home / "wordless")
    BloomForCausalLM(BloomConfig(vocab_size=259, hidden_size=32, n_layer=2, n_head=2)).save_pretrained(home / "alibi")
    for name in ("encoder", "alibi"):
        byte_tokenizer().save_pretrained(home / name)
    assert tokenizer is not None and not (home / "wordless" / "tokenizer.json").exists()
    shutil.copytree(home / "alibi", home / "cut")
    weights = home / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (home / "rows.jsonl").write_text(json.dumps({"question": "What is 1 plus 1?", "answer": "2"}))
    return home


def ingest(source: str) -> dict[str, Any]:
    return {"stage": "ingest_model", "config": {"source": source}}


def write_recipe(folder: Path, nodes: dict[str, Any]) -> str:
    (folder / "bad.yaml").write_text(yaml.safe_dump({"nodes": nodes}))
    return str(folder / "bad.yaml")


def everything_below(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*")) if home.exists() else []


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            lambda at: {"m": ingest(f"folder:{at}/encoder")},
            "node 'm': {at}/encoder is a BertForMaskedLM, not a causal language model; only those are taken",
        ),
        (
            lambda at: {"m": ingest(f"folder:{at}/wordless")},
            "node 'm': {at}/wordless has no tokenizer: none of tokenizer.json, tokenizer.model,",
        ),
        (
            lambda at: {"m": ingest(f"folder:{at}/cut")},
            "node 'm': {at}/cut/model.safetensors is damaged, or was not copied whole",
        ),
        (
            lambda at: {
                "a": ingest(TINY),
                "b": ingest(TINY + "&seed=1"),
                "p": {"stage": "prune", "config": {"blocks": [0]}, "inputs": {"model": ["a", "b"]}},
            },
            "node 'p', inputs.model = ['a', 'b']: takes one node, not 2",
        ),
        (
            lambda at: {
                "m": ingest(TINY),
                "d": {"stage": "ingest_data", "config": {"source": f"jsonl:{at}/rows.jsonl"}},
                "e": {
                    "stage": "evaluate",
                    "config": {"provider": "CUDAExecutionProvider"},
                    "inputs": {"model": "m", "tasks": ["d"]},
                },
            },
            "node 'e', config.provider is 'CUDAExecutionProvider', but the model is no ONNX graph",
        ),
        (
            lambda at: {
                "m": ingest(TINY),
                "e": {"stage": "evaluate", "config": {"provider": "cuda"}, "inputs": {"model": "m"}},
            },
            "node 'e', config.provider is 'cuda'; accepted: 'CPUExecutionProvider', 'CUDAExecutionProvider'",
        ),
    ],
    ids=[
        "encoder only",
        "no tokenizer",
        "cut weights",
        "two models for one",
        "provider of a torch model",
        "no provider",
    ],
)
def test_what_the_plan_can_see_ends_with_2(
    command: str,
    nodes: Callable[[Path], dict[str, Any]],
    message: str,
    folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(app, [command, write_recipe(tmp_path, nodes(folders))])
    assert done.exit_code == 2 and not done.stdout
    [line] = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("attar: ") and message.format(at=folders) in line
    assert everything_below(tmp_path / "home") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("run", "tiny", "--set", "pruned.config.num_blok=1"),
            "node 'pruned', config.num_blok: unknown field. Did you mean 'num_blocks'?",
        ),
        (
            ("run", "tiny", "--set", "pruned.config.num_blocks=9"),
            "num_blocks is 9, but the model has 4; accepted: 1 to 3",
        ),
        (("run", "nothing.yaml"), "recipe 'nothing.yaml': no such file or shipped recipe"),
        (("plan", "tiny", "--until", "heald"), "--until 'heald': the recipe has no such node. Did you mean 'healed'?"),
        (("list", "stage"), "list 'stage': unknown. Did you mean 'stages'?"),
        (("show", "ffffffff"), "artifact 'ffffffff': nothing is stored under"),
        (("report", "1999"), "run '1999': nothing has been run under"),
        (("pull", "nobody", "/tmp/no/such/place"), "nobody: no model of that name is registered; there are: none"),
    ],
)
def test_mistakes_exit_with_2_and_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path))
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 2
    # a thread of the libraries may write at the same time, and its words then stand before ours
    lines = [line for line in done.stderr.splitlines() if "attar: " in line]
    assert len(lines) == 1 and message in lines[0] and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "store").exists() and not (tmp_path / "runs").exists()
