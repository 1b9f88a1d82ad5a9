"""A model answers the questions of several tasks: which it got right, and some answers word for word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attar.compressors.data.prompts import encoded
from attar.compressors.models.runner import ForkingRunner
from attar.stages.artifacts.dataset.prompts import row_prompt
from attar.stages.artifacts.dataset.right_answers import right_answers, right_choices, written_answers
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.evaluate.config import COUNTED, EvaluateConfig


@dataclass
class Answering:
    """A model with its tokenizer, and how it is to answer. `answers`: what it wrote so far, by the prompt's tokens."""

    runner: ForkingRunner
    tokenizer: Any
    stop_ids: Sequence[int]
    max_new_tokens: int
    batch_size: int
    answers: dict[tuple[int, ...], str] = field(default_factory=dict)

    def right(self, rows: Mapping[str, Sequence[Row]], also: Sequence[Row] = ()) -> dict[str, list[float]]:
        """Return 1 for each question that is answered right, else 0, by task. `also`: rows whose answers are only read."""
        # written together, answers that are checked and those that are only read: a step of one row costs about as much as one of many
        written = [row for some in rows.values() for row in some if not row.choices] + list(also)
        fresh = [row for row in written if self._prompt(row) not in self.answers]
        if fresh:
            self.answers |= written_answers(
                self.runner,
                fresh,
                self.tokenizer,
                max_new_tokens=self.max_new_tokens,
                stop_ids=self.stop_ids,
                batch_size=self.batch_size,
            )
        right = {}
        for name, some in rows.items():
            right[name] = (
                right_choices(self.runner, some, self.tokenizer, batch_size=self.batch_size, name=name)
                if some[0].choices
                else right_answers(some, self.tokenizer, self.answers)
            )
        return right

    def num_tokens(self, text: str) -> int:
        """Return the length of a plain text in tokens."""
        return len(encoded(self.tokenizer, text))

    def _prompt(self, row: Row) -> tuple[int, ...]:
        return tuple(row_prompt(self.tokenizer, row))


def sample_of(row: Row, answer: str) -> dict[str, str]:
    """Return a question with its reference and an answer."""
    return {"question": row.question, "reference": row.reference or row.answer, "answer": answer.strip()}


def guessed_share(rows: Sequence[Row]) -> float:
    """Return the share of questions that guessing answers right: of choices one of so many, of open questions none."""
    return sum(1.0 / len(row.choices) for row in rows if row.choices) / len(rows)


def by_kind(rows: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """Return rows by the name of the task they make: a data set with both kinds of question makes two."""
    counts: dict[str, list[Row]] = {}
    for name, some in rows.items():
        choice, generative = [row for row in some if row.choices], [row for row in some if not row.choices]
        is_mixed = bool(choice and generative)
        for chosen, kind in ((choice, "_choice"), (generative, "_open")):
            if chosen:
                counts[name + (kind if is_mixed else "")] = chosen
    return counts


def named_tasks(
    config: EvaluateConfig, answering: Answering, generation_config: Any
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return accuracy by task, and which questions were right, of the tasks of lm-eval."""
    if not config.harness.tasks:
        return {}, {}
    try:
        from attar.stages.evaluate.harness import RIGHT, RunnerLM, run_tasks  # lm-eval: slow to import, and in an extra
    except ImportError as error:
        raise ValueError(f"tasks {', '.join(config.harness.tasks)} need lm-eval: install attar[eval]") from error
    model = RunnerLM(answering.runner, answering.tokenizer, generation_config, config.batch_size)
    results = run_tasks(model, config.harness.tasks, Path(config.harness.folder))
    right = {name: scores.pop(RIGHT) for name, scores in results.items()}
    return {name: _accuracy(scores) for name, scores in results.items()}, right


def _accuracy(scores: Mapping[str, Any]) -> float:
    for metric_name in COUNTED:
        for key, value in scores.items():
            if key.partition(",")[0] == metric_name:
                return float(value)
    raise ValueError(f"the task reports none of {', '.join(COUNTED)}; it has {', '.join(scores)}")
