"""The prompts on which a written form is compared with torch."""

from __future__ import annotations

from attar.stages.artifacts.dataset.prompts import row_prompt
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.export.config import ExportInputs


def proof_prompts(inputs: ExportInputs, num_prompts: int) -> list[list[int]]:
    """Return the first questions of the data set as tokens of the model. Raises ValueError where it has none."""
    tokenizer = load_tokenizer(inputs.model.path)
    rows = [row for row in read_rows(inputs.data.path / "rows.jsonl") if row.question][:num_prompts]
    if not rows:
        raise ValueError("input data: no row has a question to compare the graph on")
    return [row_prompt(tokenizer, row) for row in rows]
