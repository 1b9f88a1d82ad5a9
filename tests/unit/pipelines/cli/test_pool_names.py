"""The name of a pool goes on to a worker's command line: what could be an option there is refused."""

from __future__ import annotations

import os

import pytest

from attar.pipelines.cli import pool_commands


@pytest.mark.parametrize("name", ["--type", "-p", "Upper", "a b", "", "a;b"])
def test_a_worker_takes_no_option_for_a_pool(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, command: started.append(command))
    with pytest.raises(pool_commands.typer.Exit) as ended:
        pool_commands.worker(name)
    assert ended.value.exit_code == 2 and not started
