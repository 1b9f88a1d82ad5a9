"""A store as backups and mounts leave it: every file has a second hard link and may not be written, and it lies on another file system."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from attar.pipelines.recipe.plan import stage_inputs
from attar.pipelines.recipe.whole import load_recipe
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.store import Store

SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def far_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home on another file system than the temporary folder, where there is one."""
    is_far = SHARED_MEMORY.is_dir() and SHARED_MEMORY.stat().st_dev != tmp_path.stat().st_dev
    with TemporaryDirectory(dir=SHARED_MEMORY if is_far else tmp_path) as folder:
        monkeypatch.setenv("ATTAR_HOME", folder)
        yield Path(folder)


def link_and_lock(folder: Path, backup: Path) -> int:
    """Give every file of a folder a second name under `backup` and take away the right to write it; return how many there were."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        other = backup / path.relative_to(folder)
        other.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, other)
        path.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
    return len(files)


@pytest.mark.slow
def test_every_stage_of_tiny_works_on_linked_read_only_files(far_home: Path) -> None:
    store = Store(far_home)
    artifacts: dict[str, Artifact] = {}
    for node in load_recipe("tiny").nodes.values():
        inputs = stage_inputs(node, artifacts)
        artifacts[node.name] = node.stage.execute(node.config, inputs, store).artifact
        assert link_and_lock(artifacts[node.name].path, far_home / "backup" / node.name) > 0
