"""Paths that a request names: inside the folders that ATTAR_CONFINE lists, or refused.

On the command line nothing is confined: who calls it could read the file anyway. A deployed flow is called by whoever reaches the
server, and reads with the rights of its worker.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

VARIABLE = "ATTAR_CONFINE"


def confine(folders: Iterable[Path]) -> str:
    """From now on let this process, and those it starts, open paths of requests under these folders only; return the variable's value."""
    os.environ[VARIABLE] = os.pathsep.join(str(folder.resolve()) for folder in folders)
    return os.environ[VARIABLE]


def confined(path: Path) -> Path:
    """Return the path as it is. Raises ValueError when it, or what it links to, lies outside the folders of ATTAR_CONFINE."""
    folders = [Path(folder) for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]
    real = path.expanduser().resolve()
    if folders and not any(real.is_relative_to(folder) for folder in folders):
        raise ValueError(
            f"path {path} lies outside the workspace; accepted: paths under {', '.join(map(str, folders))}"
        )
    return path
