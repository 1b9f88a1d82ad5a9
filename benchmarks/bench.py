"""Stages run in this process on one store, without Prefect: for the benchmarks that build arm after arm. No script."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from attar.registry.artifacts.store import Store
from attar.stages.catalogue import STAGES
from attar.stages.runtime.progress import hearing, listen


class Bench:
    """Runs stages on a store that is kept: what was built is there the next time."""

    def __init__(self, home: Path) -> None:
        self.home, self.store = home, Store(home)
        self.seconds = 0.0

    def run(self, stage: str, config: dict[str, Any], **inputs: Any) -> Any:
        """Return a stage's artifact; `seconds` is what it took, 0 where it was there."""
        kind, started = STAGES[stage], time.monotonic()
        with listen(hearing(note=lambda note: print(f"  {stage}: {note.text}", file=sys.stderr))):
            outcome = kind.execute(kind.config_type.model_validate(config), kind.input_type(**inputs), self.store)
        elapsed = time.monotonic() - started
        print(f"  {stage}: {elapsed:.0f} s", file=sys.stderr)
        self.seconds = 0.0 if outcome.is_hit else elapsed
        return outcome.artifact

    def data(self, path: str, columns: dict[str, str], **config: Any) -> Any:
        """Return the rows of a file."""
        return self.run("ingest_data", {"source": f"jsonl:{path}", "columns": columns, **config})
