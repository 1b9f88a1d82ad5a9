"""Questions with their reasoning, as an encoder learns them: behind latent tokens, with the reasoning, and the text that answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from attar.compressors.data.spans import Location
from attar.compressors.distill.examples.reasoning import STEP_STATES, Reasoning, resampled
from attar.compressors.distill.examples.sentences import Sentence
from attar.compressors.distill.losses.objective import Objective, projections_read
from attar.registry.artifacts.facts import Facts
from attar.stages.artifacts.dataset.rows import STEP_BREAK, Row
from attar.stages.artifacts.encoder.latent_tokens import latent_names, refuse_too_many, without_latent_tokens
from attar.stages.artifacts.encoder.texts import TextReader, prompted
from attar.stages.runtime.progress import note

# Lines none of which is blank.
STEP = re.compile(r"(?:.*\S.*\n?)+")


def check_latent_tokens(objectives: Mapping[str, Objective], model: Facts, weight_decay: float) -> None:
    """Raise ValueError for a loss that reads latent tokens of a model without. Nor may words shrink beside them."""
    if model.get("num_latent_tokens"):
        if weight_decay:
            raise ValueError(
                f"schedule.weight_decay is {weight_decay:g}, which would shrink every word's row beside those of latent tokens; accepted: 0"
            )
        return
    if "num_blocks" not in model:
        return
    for name, objective in objectives.items():
        if STEP_STATES in projections_read([objective]):
            raise ValueError(
                f"objectives.{name} teaches latent tokens, and the model has none; accepted: an encoder that came in with model.latent"
            )


class ReasonedReader:
    """Reads rows as questions in two views. `num_latents`: the tokens that an encoder thinks in; 0: it has none.

    Raises ValueError where so many leave a question no token.
    """

    def __init__(self, reader: TextReader, prompts: tuple[str, str], num_latents: int) -> None:
        if num_latents:
            refuse_too_many(num_latents, reader.max_tokens, reader.num_special, "num_latent_tokens", "rows.max_tokens")
        self._reader, self._prompts = reader, prompts
        self.latent_ids = reader.token_ids(latent_names(num_latents)) if num_latents else []
        self.num_cut = 0

    def __call__(self, row: Row, name: str) -> list[Sentence]:
        """Return a row as one example. Raises ValueError for a row without a question, its text or its reasoning."""
        text, reasoning = answered(row)
        if not (row.question.strip() and text.strip() and reasoning.strip()):
            raise ValueError(
                f"{name}: row {row.id} has no reasoning beside a question and its text; accepted: ingest_data with columns.reasoning, or what "
                "self_data wrote as the answer"
            )
        pair = prompted(row.with_changes(answer=text), self._prompts)
        latent, other = self._reader([pair.question, pair.answer])
        columns = [index for index, token in enumerate(latent) if token in self.latent_ids][: len(self.latent_ids)]
        if len(columns) < len(self.latent_ids):
            raise ValueError(
                f"{name}: row {row.id} is cut at its beginning, where the latent tokens stand; accepted: a tokenizer that cuts at the end"
            )
        question = without_latent_tokens(self._prompts)[0] + row.question + STEP_BREAK
        ids, steps = self._reader.located(question + reasoning, steps_of(reasoning, len(question)))
        self.num_cut += not steps
        return [Sentence(latent, other=other, reasoning=Reasoning(ids, columns, resampled(steps, len(columns))))]

    def tell_cuts(self) -> None:
        """Note how many questions leave no room for their reasoning."""
        if self.num_cut:
            note(f"warning: {self.num_cut} questions are cut before their reasoning, and no step teaches their tokens")


def answered(row: Row) -> tuple[str, str]:
    """Return the text that answers a row's question, and its reasoning. Of self_data's rows the reference, and what was written."""
    return (row.answer, row.reasoning) if row.reasoning else (row.reference, row.rewrite)


def steps_of(reasoning: str, offset: int = 0) -> Sequence[Location]:
    """Return where the steps of a reasoning are. Blank lines part them, and the reasoning begins at `offset` of a text."""
    return [(match.start() + offset, match.end() + offset) for match in STEP.finditer(reasoning)]
