"""Sources `hub:`, through the hub's own clients: a model by branch and by commit, and data as questions and as conversations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from attar.stages.ingest.tiny_model import random_model
from tests.hub_server import COMMIT, hub

QUESTIONS = [{"question": f"What is {number} and 1?", "answer": str(number + 1)} for number in range(3)]
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
CHATS = [
    {
        "messages": [
            {"role": "system", "content": "You count."},
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "And then?"},
            {"role": "assistant", "content": "Three."},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "Add 1"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
            {"role": "assistant", "content": "That makes 2."},
        ]
    },
]
SHARED = [{"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Good day."}]}]
# The clients read HF_ENDPOINT once, when they are imported.
INGEST = """
import json, sys
from pathlib import Path
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.newest_source import newest_source
outcomes, store = {}, Store(Path(sys.argv[1]))
for stage, source in json.loads(sys.stdin.read()):
    try:
        if stage == "pin":
            outcomes["pin"] = newest_source("ingest_data", source)
            continue
        of_model = stage == "ingest_model"
        config = IngestModelConfig(source=source) if of_model else IngestDataConfig(source=source, heldout_fraction=0.0)
        outcomes[source] = str((ingest_model if of_model else ingest_data).execute(config, NoInputs(), store).artifact.path)
    except ValueError as error:
        outcomes[source] = f"refused: {error}"
print(json.dumps(outcomes))
"""


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each source, in one process of its own."""
    folder = tmp_path_factory.mktemp("hub")
    model, tokenizer = random_model("llama", num_blocks=2, hidden_size=32)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    repositories = {
        "team/small": {path.name: path.read_bytes() for path in (folder / "model").iterdir()},
        "datasets/team/rows": {"data/train.jsonl": lines(QUESTIONS[:2]), "data/test.jsonl": lines(QUESTIONS[2:])},
        "datasets/team/chats": {"train.jsonl": lines(CHATS)},
        "datasets/team/shared": {"train.jsonl": lines(SHARED)},
    }
    sources = [
        ("ingest_model", "hub:team/small@main"),
        ("ingest_model", f"hub:team/small@{COMMIT}"),
        ("ingest_data", "hub:team/rows@main"),
        ("ingest_data", "hub:team/rows@main:test"),
        ("ingest_data", "hub:team/chats@main"),
        ("ingest_data", "hub:team/shared@main"),
        ("pin", "hub:team/rows@main:test"),
        ("ingest_data", "hub:team/gone@main"),
        ("ingest_model", "hub:team/gone@v1"),
    ]
    with hub(repositories) as address:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": address, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", INGEST, str(folder / "home")],
            input=json.dumps(sources),
            env=environment | {"PYTHONPATH": os.getcwd(), "NO_PROXY": "127.0.0.1"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) | {"model": str(folder / "model")}


def rows_of(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "rows.jsonl").read_text().splitlines()]


def test_a_model_of_the_hub_is_the_model_by_branch_and_by_commit(outcomes: dict[str, str]) -> None:
    expected = load_file(Path(outcomes["model"]) / "model.safetensors")
    for source in ("hub:team/small@main", f"hub:team/small@{COMMIT}"):
        weights = load_file(Path(outcomes[source]) / "model.safetensors")
        assert weights.keys() == expected.keys() and all((weights[name] == expected[name]).all() for name in weights)


def test_splits_of_a_data_set_are_its_rows(outcomes: dict[str, str]) -> None:
    for source, wanted in (("hub:team/rows@main", QUESTIONS[:2]), ("hub:team/rows@main:test", QUESTIONS[2:])):
        rows = rows_of(outcomes[source])
        assert [{"question": row["question"], "answer": row["answer"]} for row in rows] == wanted


def test_conversations_of_the_hub_are_conversations(outcomes: dict[str, str], tmp_path: Path) -> None:
    """A table gives every turn every key of any turn, and null where it has none: the rows are those of the file itself."""
    rows = rows_of(outcomes["hub:team/chats@main"])
    assert [row["answer"] for row in rows[:2]] == ["Two.", "Three."] and rows[1]["messages"][0][
        "content"
    ] == "You count."
    assert rows[-1]["answer"] == "That makes 2."
    [call] = next(turn for turn in rows[-1]["messages"] if turn.get("tool_calls"))["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": {"a": 1}}
    [greeting] = rows_of(outcomes["hub:team/shared@main"])
    assert (greeting["question"], greeting["answer"]) == ("Hello", "Good day.")


def test_a_branch_is_pinned_to_its_commit(outcomes: dict[str, str]) -> None:
    assert outcomes["pin"] == f"hub:team/rows@{COMMIT}:test"


def test_what_the_hub_has_not_is_refused_in_one_line(outcomes: dict[str, str]) -> None:
    for source in ("hub:team/gone@main", "hub:team/gone@v1"):
        assert (
            outcomes[source].startswith(f"refused: {source}: the hub did not give it: ")
            and "\n" not in outcomes[source]
        )
