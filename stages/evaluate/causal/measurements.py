"""What a worker measures of a causal model: its share of questions and text, by their numbers. And all workers' together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from attar.compressors.data.prompts import text_windows
from attar.compressors.measure.likelihood import PIECE_TOKENS, Pair, Piece, piece_losses
from attar.compressors.models.runner import CausalRunner
from attar.registry.artifacts.handles import DatasetArtifact
from attar.registry.artifacts.kinds.shard_facts import WHOLE, Shard
from attar.stages.artifacts.dataset.measured_data import plain_text, question_rows, unique_names
from attar.stages.artifacts.dataset.prompts import choice_context
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.evaluate.answers.answering import Answering
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.runtime.progress import bar

# What workers share, in words.
PIECES = "questions or windows of text"
FILE = "measurements.json"


@dataclass(frozen=True)
class Measurements:
    """`right` by task and number of the question, `pieces` of the text by window, `answers` by the prompt's tokens.

    `figures`: what is measured of the model as a whole, by the first worker alone.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    right: dict[str, dict[int, float]] = field(default_factory=dict)
    pieces: dict[int, list[Piece]] = field(default_factory=dict)
    answers: dict[tuple[int, ...], str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write them to a folder. A number has all its digits in JSON."""
        plain = {
            "figures": self.figures,
            "right": {task: list(right.items()) for task, right in self.right.items()},
            "pieces": list(self.pieces.items()),
            "answers": list(self.answers.items()),
        }
        (folder / FILE).write_text(json.dumps(plain, ensure_ascii=False))

    @staticmethod
    def gathered(folders: Sequence[Path]) -> Measurements:
        """Return what the workers wrote to their folders, together."""
        whole = Measurements()
        for folder in folders:
            plain = json.loads((folder / FILE).read_text())
            whole.figures.update(plain["figures"])
            whole.pieces.update({index: [tuple(piece) for piece in pieces] for index, pieces in plain["pieces"]})
            whole.answers.update({tuple(prompt): text for prompt, text in plain["answers"]})
            for task, right in plain["right"].items():
                whole.right.setdefault(task, {}).update(dict(right))
        return whole

    def right_in_order(self, rows: Mapping[str, Sequence[Row]]) -> dict[str, list[float]]:
        """Return the answers of each task in the order of its questions."""
        return {task: [self.right[task][index] for index in range(len(some))] for task, some in rows.items()}

    def pieces_in_order(self) -> list[Piece]:
        """Return the pieces of the text in its order."""
        return [piece for _, pieces in sorted(self.pieces.items()) for piece in pieces]


def rows_by_task(config: EvaluateConfig, inputs: EvaluateInputs) -> dict[str, list[Row]]:
    """Return the questions of each data set by its name."""
    names = unique_names(inputs.tasks, "task")
    return {
        name: question_rows(data, config.max_rows, config.part) for name, data in zip(names, inputs.tasks, strict=True)
    }


def windows_of(config: EvaluateConfig, text: DatasetArtifact, tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Return the windows that the text of the perplexity is read in."""
    return text_windows(tokenizer, plain_text(text, config.part), config.perplexity_window)


def dealt(lengths: Sequence[int], batch_size: int, shard: Shard) -> list[int]:
    """Return which texts of such lengths are the shard's. Whole batches of like length: each is read beside the same others as by one worker."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return sorted(index for batch in shard.pieces(len(batches)) for index in batches[batch])


def answer_share(
    answering: Answering, rows: Mapping[str, Sequence[Row]], sampled: Sequence[Row], shard: Shard
) -> dict[str, dict[int, float]]:
    """Answer the shard's questions, and return which are right by task and number. The first shard writes the samples that are not checked."""
    own: dict[str, list[int]] = {}
    for task, some in rows.items():
        if shard == WHOLE:
            own[task] = list(range(len(some)))
        elif some[0].choices:
            lengths = [answering.num_tokens(choice_context(row)) for row in some]
            own[task] = dealt(lengths, answering.batch_size, shard)
        else:
            own[task] = dealt([len(row.question) for row in some], 1, shard)
    also = [row for row in sampled if row.choices] if shard.index == 0 else []
    right = answering.right(
        {task: [rows[task][index] for index in indices] for task, indices in own.items() if indices}, also
    )
    return {task: dict(zip(own[task], some, strict=True)) for task, some in right.items()}


def read_share(
    runner: CausalRunner, windows: Sequence[Pair] | None, batch_size: int, shard: Shard
) -> dict[int, list[Piece]]:
    """Return the losses of the shard's windows by their number; nothing without a text. Raises ValueError for one without a token to predict."""
    if windows is None:
        return {}
    numbers = [index for index, (_, tokens) in enumerate(windows) if tokens]
    if not numbers:
        raise ValueError("the text has too few tokens for a perplexity")
    lengths = [len(windows[index][0]) + len(windows[index][1]) for index in numbers]
    own = [numbers[position] for position in dealt(lengths, batch_size, shard)]
    if not own:
        return {}
    counter = bar("reading text", len(own), "windows")
    some = [windows[index] for index in own]
    pieces = iter(piece_losses(runner, some, batch_size=batch_size, on_scored=counter.advance))
    return {index: [next(pieces) for _ in range(ceil(len(windows[index][1]) / PIECE_TOKENS))] for index in own}
