"""Data sets of one recipe that hold the same rows. What is measured on one would have been learned from the other."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from attar.registry.artifacts.handles import Artifact
from attar.stages.artifacts.dataset.rows import content_key, read_rows


@dataclass
class Overlaps:
    """What the recipe's sources hold so far, by content. A file under another name or a generator's neighbouring seed is seen too."""

    _contents: dict[str, frozenset[bytes]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, stage: str, artifact: Artifact) -> list[str]:
        """Return a line for each source before this one that shares rows with it."""
        if stage != "ingest_data" or not artifact.holds_rows:
            return []
        contents = frozenset(content_key(row) for row in read_rows(artifact.path / "rows.jsonl"))
        with self._lock:
            shared = {other: len(contents & rows) for other, rows in self._contents.items()}
            sizes = {other: len(rows) for other, rows in self._contents.items()}
            self._contents[name] = contents
        return [
            f"data sets {other} and {name} share {count} of {min(sizes[other], len(contents))} questions or texts: "
            "what is learned from one and measured on the other is not unseen"
            for other, count in shared.items()
            if count
        ]
