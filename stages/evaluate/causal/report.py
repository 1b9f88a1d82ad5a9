"""Write the evaluation of a causal model, of what one worker measured or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attar.compressors.measure.likelihood import perplexity_of
from attar.registry.artifacts.fingerprint import digest
from attar.registry.artifacts.handles import EvaluationArtifact
from attar.stages.artifacts.dataset.measured_data import in_turn
from attar.stages.artifacts.dataset.partition import shared_rows_note
from attar.stages.artifacts.dataset.prompts import row_prompt
from attar.stages.artifacts.dataset.rows import Row, read_rows, split_rows
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.evaluate.answers.answering import by_kind, guessed_share, sample_of
from attar.stages.evaluate.answers.kept_answers import write_answers
from attar.stages.evaluate.blocks import Blocks
from attar.stages.evaluate.causal.measurements import Measurements, rows_by_task, windows_of
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.headline import headline_metrics
from attar.stages.evaluate.question_pairs import question_ids
from attar.stages.evaluate.written import write_evaluation
from attar.stages.runtime.progress import note


def report_causal(
    config: EvaluateConfig, inputs: EvaluateInputs, measured: Measurements, blocks: Blocks | None, content: Path
) -> EvaluationArtifact:
    """Write the evaluation of what all workers measured."""
    figures, rows = measured.figures, rows_by_task(config, inputs)
    tokenizer = load_tokenizer(inputs.model.path)
    _tell_part(config, inputs)
    evaluation: dict[str, Any] = {
        "format": inputs.model.kind,
        "num_blocks": inputs.model.facts.num_blocks,
        "model_fingerprint": inputs.model.fingerprint,
        "part": config.part,
        **figures["size"],
        **_text(config, inputs, measured, tokenizer),
    }
    evaluation |= _questions(config, rows, measured, blocks, tokenizer, content)
    # what two evaluations can be compared on text by text
    evaluation["text"] = inputs.text.fingerprint if inputs.text is not None else ""
    evaluation |= {name: figures[name] for name in ("latency", "served", "prefix", "speculation") if name in figures}
    return write_evaluation(evaluation, headline_metrics(evaluation), content)


def _tell_part(config: EvaluateConfig, inputs: EvaluateInputs) -> None:
    """Say which data have no rows set apart for choices, where these are asked for."""
    if config.part == "choose":
        note("measured on the rows that choices are made on: figures to choose by, not to report")
        data = [*inputs.tasks, *([inputs.text] if inputs.text is not None else [])]
        for some in data:
            if not split_rows(read_rows(some.path / "rows.jsonl"), "choose"):
                note(shared_rows_note(str(some.facts.get("name", "a data set")), "choose among models"))


def _text(config: EvaluateConfig, inputs: EvaluateInputs, measured: Measurements, tokenizer: Any) -> dict[str, Any]:
    """Return the perplexity, what it is made of, and the bytes that were predicted: per byte, models of other tokens compare."""
    if inputs.text is None:
        return {"perplexity": None, "text_pieces": [], "text_bytes": 0}
    windows = windows_of(config, inputs.text, tokenizer)
    pieces = measured.pieces_in_order()
    num_bytes = sum(len(tokenizer.decode(part).encode()) for _, part in windows)
    return {"perplexity": perplexity_of(pieces), "text_pieces": pieces, "text_bytes": num_bytes}


def _questions(
    config: EvaluateConfig,
    rows: Mapping[str, Sequence[Row]],
    measured: Measurements,
    blocks: Blocks | None,
    tokenizer: Any,
    content: Path,
) -> dict[str, Any]:
    """Return accuracy in [0, 1] by task, which questions were right, and some answers word for word; keep all of them beside it."""
    tasks, right = measured.figures["named"]
    if blocks is None:
        answered: Mapping[str, Sequence[Row]] = by_kind(rows)
        ids = {name: question_ids(some) for name, some in answered.items()}
    else:
        ids = {name: blocks.ids[name][: len(some)] for name, some in blocks.right.items()}
        answered = {name: blocks.rows[name][: len(some)] for name, some in blocks.right.items()}
    right = {**right, **measured.right_in_order(answered)}

    def sample(row: Row) -> dict[str, str]:
        return sample_of(row, measured.answers[tuple(row_prompt(tokenizer, row))])

    write_answers(content, answered, ids, right, sample)
    return {
        "tasks": tasks | {name: sum(right[name]) / len(right[name]) for name in answered},
        "right": right,
        "num_rows": {name: len(some) for name, some in right.items()},
        "guessed": {name: guessed_share(some) for name, some in answered.items()},
        # what two evaluations can be compared on, all questions at once and question by question
        "asked": {name: digest([row.question for row in some]) for name, some in answered.items()},
        "question_ids": ids,
        "stopping": measured.figures.get("stopping"),
        "samples": [sample(row) for row in in_turn(rows)[: config.num_samples]],
    }
