"""What a model answered to every question, kept beside its evaluation. And what two models answered otherwise, word for word."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.registry.artifacts.fingerprint import RECORDS_FOLDER
from attar.registry.artifacts.handles import Artifact
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.evaluate.paired_evaluations import evaluation_of
from attar.stages.evaluate.question_pairs import paired_right

# Among the records: what was written proves a figure and changes none.
ANSWERS = f"{RECORDS_FOLDER}/answers.jsonl"
# Stands for what was not written: the likelihood of each choice decides, and evaluations of before kept no texts.
CHOSEN, NOT_KEPT = "(another choice)", "(not kept)"


@dataclass(frozen=True)
class FlippedAnswer:
    """A question that one of two models answered right and the other wrong. `flip`: lost or won by the second."""

    task: str
    flip: str
    question: str
    reference: str
    first: str
    second: str


def write_answers(
    content: Path,
    rows: Mapping[str, Sequence[Row]],
    ids: Mapping[str, Sequence[str]],
    right: Mapping[str, Sequence[float]],
    sample: Callable[[Row], Mapping[str, str]],
) -> None:
    """Write a line a question, by task and id. `sample` returns question, reference and answer of one that was answered in words."""
    (content / ANSWERS).parent.mkdir(parents=True, exist_ok=True)
    with (content / ANSWERS).open("w") as stream:
        for task, some in rows.items():
            for row, name, is_right in zip(some, ids[task], right[task], strict=True):
                known = _chosen(row, is_right) if row.choices else sample(row)
                stream.write(json.dumps({"task": task, "id": name, **known}, ensure_ascii=False) + "\n")


def flipped_answers(first: Artifact, second: Artifact) -> tuple[list[FlippedAnswer], int]:
    """Return what the second model lost and won, lost ones first, and of how many questions that both were asked."""
    contents, texts = [evaluation_of(side) for side in (first, second)], [_texts(side) for side in (first, second)]
    flips, num_questions = [], 0
    for task, ids in contents[1].get("question_ids", {}).items():
        pair = paired_right(contents[1], contents[0], task)
        num_questions += len(pair[0]) if pair is not None else 0
        flips += [
            _flip(task, "lost" if now < before else "won", [side.get((task, name), {}) for side in texts])
            for name, now, before in zip(ids, *(pair or ((), ())), strict=pair is not None)
            if now != before
        ]
    return sorted(flips, key=lambda flip: (flip.flip, flip.task)), num_questions


def _flip(task: str, flip: str, sides: Sequence[Mapping[str, str]]) -> FlippedAnswer:
    known = {**sides[0], **sides[1]}
    first, second = (side.get("answer", NOT_KEPT) for side in sides)
    return FlippedAnswer(task, flip, known.get("question", NOT_KEPT), known.get("reference", NOT_KEPT), first, second)


def _chosen(row: Row, is_right: float) -> dict[str, str]:
    reference = row.choices[row.answer_index]
    return {"question": row.question, "reference": reference, "answer": reference if is_right else CHOSEN}


def _texts(evaluation: Artifact) -> dict[tuple[str, str], dict[str, str]]:
    return {(line.pop("task"), line.pop("id")): line for line in _lines(evaluation.path / ANSWERS)}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        with path.open() as stream:
            yield from map(json.loads, stream)
