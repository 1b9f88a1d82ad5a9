"""A wheel of this tree, and a fresh environment that has it: Attar comes from the wheel alone, its libraries from the one that runs the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
Environment = dict[str, str]


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git holds or would hold of this tree, links as links: nothing that a build or a test left."""
    folder = tmp_path_factory.mktemp("source") / "attar"
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT).stdout
    for name in filter(None, listed.split("\0")):
        path, copy = ROOT / name, folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or path.is_file():
            shutil.copy2(path, copy, follow_symlinks=False)
    return folder


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tree by `python -m build`, with the setuptools that is here: a build of its own would ask an index for it."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(source)])
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment whose only package is the wheel; a path file leads to the libraries."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, with_pip=False)
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    run([*command, "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)])
    (packages_of(folder) / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def packages_of(environment: Path) -> Path:
    [folder] = environment.glob("lib/python*/site-packages")
    return folder


@pytest.fixture
def empty(tmp_path: Path, fresh: Path, clean_environment: Environment) -> tuple[Path, Environment]:
    """An empty folder, and what a command is started with there: nothing leads to this tree."""
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {name: value for name, value in clean_environment.items() if not name.startswith("PYTHON")}
    search = os.pathsep.join([str(fresh / "bin"), environment.get("PATH", os.defpath)])
    return folder, environment | {"ATTAR_HOME": str(tmp_path / "home"), "PATH": search}
