"""`attar serve` as its user meets it: a released form behind OpenAI's protocol, gone with its command; what it refuses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from attar.pipelines.cli.main import app
from attar.registry.release.cached_copy import cached_copy, find_release, in_use, remove_copies
from attar.registry.release.model_registry import register_model
from tests.databases import copy_database
from tests.stages.artifacts.serving.stand_in_engine import write_engine

RUNNER = CliRunner()


def write_forms(folder: Path) -> None:
    for form, name in (("gguf-q8_0", "model.gguf"), ("openvino", "model.bin")):
        (folder / form).mkdir(parents=True)
        (folder / form / name).write_bytes(b"GGUF" * 100)
    (folder / "README.md").write_text("A card.")


@pytest.fixture
def home(tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry whose `small` has a GGUF form, and llama.cpp's server on PATH."""
    home = tmp_path / "home"
    copy_database(mlflow_database, home / "mlflow.db")
    monkeypatch.setenv("ATTAR_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("ATTAR_RUN_PID", str(os.getpid()))  # which the command sets for good
    bin_folder = write_engine(tmp_path / "bin").parent
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    register_model(
        "small", "key", write_forms, metrics={}, params={}, tags={}, scratch=home / "scratch", is_champion=True
    )
    return home


@contextmanager
def served(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """`attar serve` as a process that is ready: it, where its API begins, and the lines that it wrote until then."""
    command = [sys.executable, "-m", "attar.pipelines", "serve", "small@champion", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line.strip())
            if " answers; " in line:
                break
        else:
            pytest.fail("it did not come up:\n" + "\n".join(lines))
        yield process, lines[-1].partition(" ")[0], lines
    finally:
        process.kill()
        process.wait()


def ask(url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    content = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, content), timeout=10) as answer:
        return json.load(answer)


def processes_of(base_url: str, attar: subprocess.Popen[str]) -> list[psutil.Process]:
    """The engine's processes: the server, and the worker that it keeps in a session of its own."""
    worker = ask(base_url.replace("/v1", "/health"))["worker"]
    return [*psutil.Process(attar.pid).children(recursive=True), psutil.Process(worker)]


def test_it_serves_says_so_and_leaves_nothing_behind(home: Path) -> None:
    with served() as (process, base_url, lines):
        body = {"model": "small", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}
        answer = ask(f"{base_url}/chat/completions", body)
        assert answer["model"] == "small" and answer["usage"]["completion_tokens"] == 5
        assert answer["private"] == [], "the engine need not know where the registry is"
        started = [each for each in processes_of(base_url, process) if "reaper" not in " ".join(each.cmdline())]
        assert len(started) >= 2
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == 0 and rest.split()[-1] == "stopped"
        _, alive = psutil.wait_procs(started, timeout=5)
        assert not alive
    assert lines[0].startswith("copying gguf-q8_0 of small version 1 into ")
    assert lines[1] == f"starting llama-server; its log: {home / 'logs'}/serve-{base_url.split(':')[-1][:-3]}.log"
    assert lines[2].startswith("llama-server is ready after ")


def test_killed_it_takes_its_engine_with_it(home: Path) -> None:
    with served() as (process, base_url, _):
        started = processes_of(base_url, process)
        process.kill()
        _, alive = psutil.wait_procs(started, timeout=30)
        assert not alive


def test_an_unchanged_copy_is_used_again_and_a_damaged_one_replaced(home: Path) -> None:
    release, lines = find_release("small@champion"), list[str]()
    folder = cached_copy(release, "gguf-q8_0", say=lines.append)
    weights = folder / "model.gguf"
    before = weights.stat().st_ino
    assert cached_copy(release, "gguf-q8_0", say=lines.append) == folder and weights.stat().st_ino == before
    assert lines[1] == f"gguf-q8_0 was copied before: {folder}"
    weights.write_bytes(b"another")
    cached_copy(release, "gguf-q8_0", say=lines.append)
    assert "model.gguf is not what was registered" in lines[2] and weights.read_bytes() == b"GGUF" * 100


def refusal(*arguments: str) -> str:
    done = RUNNER.invoke(app, ["serve", *arguments])
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.exit_code in (1, 2) and len(lines) == 1, done.stderr
    return lines[0]


def test_what_it_refuses(home: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert refusal("small", "--port", str(port)).startswith(f"attar: port {port} is taken by process {os.getpid()}")
    assert refusal("small", "--host", "0.0.0.0").startswith("attar: host is 0.0.0.0: other machines reach it")
    assert refusal("small", "--host", "example.org", "--port", "0").startswith("attar: host is example.org")
    assert "no engine serves openvino" in refusal("small", "--form", "openvino", "--port", "0")
    assert "no model of that name is registered" in refusal("other", "--port", "0")
    assert not (home / "pulled").exists(), "nothing is copied for what cannot be served"


def test_an_unsigned_version_is_refused_where_a_key_is_given(home: Path, tmp_path: Path) -> None:
    from tests.stages.test_signed_versions import write_keys

    _, public = write_keys(tmp_path / "keys", "own")
    assert "version 1: it is not signed" in refusal("small", "--port", "0", "--key", str(public))
    assert not (home / "pulled").exists()


def test_an_engine_that_fails_is_told_with_its_last_line(home: Path) -> None:
    line = refusal("small", "--port", "0", "--", "--fail", "bad tensor")
    assert "the engine ended with exit code 1: error: failed to load the model: bad tensor" in line


def test_copies_that_nothing_runs_from_are_collected(home: Path) -> None:
    refusal("small", "--port", "0", "--", "--fail", "at once")
    [folder] = (home / "pulled").iterdir()
    with in_use(folder / "gguf-q8_0"):
        assert remove_copies(home, is_dry_run=False) == []
    assert [name for name, _ in remove_copies(home, is_dry_run=True)] == [folder.name] and folder.exists()
    remove_copies(home, is_dry_run=False)
    assert not folder.exists()
