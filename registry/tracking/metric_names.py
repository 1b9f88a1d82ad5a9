"""Names under which MLflow keeps numbers and parameters. It refuses characters and lengths that names of data sets have."""

from __future__ import annotations

import hashlib
import re

# MLflow takes letters, digits, _ - . : / and spaces, and reads a name as a path: no part of it is empty, `.` or `..`.
REFUSED = re.compile(r"[^\w.\- :/]")
MAX_CHARACTERS = 250


def metric_name(name: str) -> str:
    """Return a name that MLflow takes: the name itself where it does. A character that it refuses becomes an underscore.

    A name that is too long ends in a digest of the whole, so that two do not become one.
    """
    parts = REFUSED.sub("_", name).split("/")
    taken = "/".join(part if part.strip(".") else "_" for part in parts)
    if len(taken) <= MAX_CHARACTERS:
        return taken
    mark = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{taken[: MAX_CHARACTERS - len(mark) - 1]}_{mark}"
