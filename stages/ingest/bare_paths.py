"""Source lines from what a person types: a path alone is given its scheme."""

from __future__ import annotations

from pathlib import Path

from attar.stages.ingest.data import FORMS as DATA_FORMS
from attar.stages.ingest.source_line import FORMS as MODEL_FORMS

# How a data set's file is read, by its ending.
DATA_SCHEMES = {".jsonl": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".txt": "text"}


def model_source(text: str) -> str:
    """Return a source line for a model. A line as it is, a path of a folder or a .gguf file with its scheme."""
    if text.partition(":")[0] in MODEL_FORMS:
        return text
    if text.endswith(".gguf"):
        return f"gguf:{text}"
    is_path = Path(text).expanduser().is_dir() or text.startswith((".", "/", "~"))
    return f"folder:{text}" if is_path else text


def data_source(text: str) -> str:
    """Return a source line for a data set. A line as it is, a path of a .jsonl, .csv, .tsv, .parquet or .txt file with its scheme."""
    scheme = DATA_SCHEMES.get(Path(text).suffix)
    return text if text.partition(":")[0] in DATA_FORMS or scheme is None else f"{scheme}:{text}"
