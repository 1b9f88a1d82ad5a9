"""The README tells the truth: its tree is the tree, its commands exist, its recipes load."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import typer.main

from attar.pipelines.cli.main import app
from attar.pipelines.recipe.file import shipped_recipes
from attar.stages.catalogue import STAGES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def tree_paths() -> list[str]:
    """Paths named in the README's annotated tree, by indentation."""
    block = README.split("<!-- tree -->")[1].split("```")[1]
    paths: list[str] = []
    parents: list[str] = []
    for line in block.splitlines()[1:]:
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        entry = line.split()[0]
        parents = [*parents[:depth], entry]
        paths.append("".join(parents))
    return paths


def test_every_path_of_the_tree_exists() -> None:
    paths = tree_paths()
    assert len(paths) > 20
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_the_tree_names_every_module() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    folders = {f"{Path(path).parent}/" for path in listed.stdout.split() if path.endswith(".py")} - {"./"}
    named = {path if path.endswith("/") else f"{Path(path).parent}/" for path in tree_paths()}
    assert folders <= named | {"tests/"}
    top = {path.split("/")[0] + ("/" if "/" in path else "") for path in listed.stdout.split()}
    assert top <= set(tree_paths()), "everything at the top is explained"


def commands() -> list[list[str]]:
    blocks = re.findall(r"```(?:bash|console)\n(.*?)```", README, re.DOTALL)
    lines = [line.split("#")[0].strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [line.split() for line in lines if line.startswith(("attar ", "make "))]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_of_the_readme_exists(words: list[str]) -> None:
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
        return
    group = typer.main.get_command(app)
    command = group.commands[words[1]]  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
    if words[1] in ("run", "plan"):
        assert words[2] in shipped_recipes() or words[2].endswith(".yaml")


def test_every_stage_and_recipe_is_described() -> None:
    for name in (*STAGES, *shipped_recipes()):
        assert f"`{name}`" in README


def test_nothing_names_a_private_place() -> None:
    """No path of a machine, no private host: the project reads the same everywhere."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    pattern = re.compile(r"/(?:home|root|opt|work)/\w|\blocalhost:\d{4}/simple")
    found = [
        path
        for path in listed.stdout.split()
        if (ROOT / path).is_file() and pattern.search((ROOT / path).read_text(errors="ignore"))
    ]
    assert not [path for path in found if not path.endswith("test_architecture_readme.py")]
