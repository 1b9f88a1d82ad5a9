"""The names that figures go by, and a figure as text. Never without its interval where it is known; all of a version as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attar.registry.artifacts.handles import FIGURES

# Behind a figure's name: the ends of its 95% interval, or the quartiles of a time.
LOW, HIGH = "_low", "_high"
# Keys of the artifacts that a version was made from, by name, as JSON; that of the model has a tag of its own too.
KEYS_TAG, MODEL_KEY_TAG = "attar.keys", "attar.model_key"
# What of these was measured and is no form of the model.
MEASURED = ("evaluation", "baseline", "comparison", "behaviour")
# What an accuracy and a perplexity were measured on.
QUESTIONS, TEXT_TOKENS = "num_questions", "num_text_tokens"


def is_figure(name: str) -> bool:
    """Say whether a number is a figure of its own. Ends of intervals and counts are none."""
    last = name.rpartition("/")[2]
    return not last.endswith((LOW, HIGH)) and not last.startswith((QUESTIONS, TEXT_TOKENS))


def with_interval(figures: Mapping[str, float], name: str, digits: int = 4) -> str:
    """Return a figure such as `0.71 [0.62, 0.79] on 99 questions`; `name` may stand behind a form, as in `model/accuracy`."""
    text = f"{figures[name]:.{digits}g}"
    ends = [f"{figures[name + end]:.3g}" for end in (LOW, HIGH) if name + end in figures]
    if len(ends) == 2:
        text += f" [{', '.join(ends)}]"
    form, slash, last = name.rpartition("/")
    task = last.removeprefix("accuracy")
    counted = {f"{form}{slash}{QUESTIONS}{task}": "questions"} if task != last else {}
    if last == "perplexity":
        counted = {f"{form}{slash}{TEXT_TOKENS}": "tokens"}
    return text + "".join(f" on {figures[key]:,.0f} {unit}" for key, unit in counted.items() if key in figures)


def write_figures(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of one form as `mlflow.load_table` reads them."""
    columns = list(rows[0]) if rows else []
    table = {"columns": columns, "data": [[row[column] for column in columns] for row in rows]}
    (folder / FIGURES).write_text(json.dumps(table))
