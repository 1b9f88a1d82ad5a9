"""`attar init` on a terminal asks for what no option gave, and takes Enter for the default."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_answers_on_a_terminal_become_the_recipe(tmp_path: Path, clean_environment: dict[str, str]) -> None:
    environment = clean_environment | {"ATTAR_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    master, terminal = os.openpty()
    command = [
        sys.executable,
        "-m",
        "attar",
        "init",
        "mine.yaml",
        "--questions",
        "reasoning_gym:chain_sum",
        "--rows",
        "20",
    ]
    answers = [
        "random:llama?num_blocks=4&hidden_size=64&seed=0",
        "1",
        "",
    ]  # the model, how many blocks, Enter for the name
    process = subprocess.Popen(
        command,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    os.write(master, "".join(f"{answer}\n" for answer in answers).encode())
    printed, _ = process.communicate(timeout=120)
    os.close(master)
    os.close(terminal)
    assert process.returncode == 0, printed
    recipe = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert recipe["name"] == "my-small-model"
    assert recipe["nodes"]["original"]["config"]["source"] == answers[0]
    assert recipe["nodes"]["smaller"]["config"]["num_blocks"] == 1
    assert "Questions and answers" not in printed and "Decoder blocks to remove" in printed
