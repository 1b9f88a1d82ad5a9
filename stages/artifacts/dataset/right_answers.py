"""Which questions a model answers right: choices by their likelihood over their length, written answers by their check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attar.compressors.catalogue import build
from attar.compressors.data.prompts import choice_tokens, encoded
from attar.compressors.measure.choices import choice_likelihoods
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import ForkingRunner, SlotSource
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS
from attar.stages.artifacts.dataset.prompts import choice_context, row_prompt
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.runtime.progress import bar


def right_choices(
    runner: ForkingRunner, rows: Sequence[Row], tokenizer: Any, *, batch_size: int, name: str
) -> list[float]:
    """Return 1 for each question whose right choice is the likeliest per character, else 0: lm-eval's `acc_norm`.

    `batch_size` counts questions; `name` is what the progress bar says.
    """
    contexts = [choice_context(row) for row in rows]
    questions = [
        (encoded(tokenizer, context), [choice_tokens(tokenizer, context, choice) for choice in row.choices])
        for context, row in zip(contexts, rows, strict=True)
    ]
    counter = bar(f"choosing in {name}", len(rows), "questions")
    scored = choice_likelihoods(runner, questions, batch_size=batch_size, on_scored=counter.advance)
    right = []
    for row, logprobs in zip(rows, scored, strict=True):
        scores = [logprob / len(choice) for choice, logprob in zip(row.choices, logprobs, strict=True)]
        right.append(float(scores.index(max(scores)) == row.answer_index))
    return right


def written_answers(
    runner: SlotSource,
    rows: Sequence[Row],
    tokenizer: Any,
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    batch_size: int,
) -> dict[tuple[int, ...], str]:
    """Return what the model writes greedily, by the prompt's tokens; rows with one prompt share an answer."""
    prompts = list(dict.fromkeys(tuple(row_prompt(tokenizer, row)) for row in rows))
    counter = bar("generating answers", len(prompts), "texts")
    generations = decode(
        runner,
        prompts,
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        batch_size=batch_size,
        on_finished=counter.advance,
    )
    return {
        prompt: tokenizer.decode(generation.token_ids, skip_special_tokens=True)
        for prompt, generation in zip(prompts, generations, strict=True)
    }


def right_answers(rows: Sequence[Row], tokenizer: Any, answers: Mapping[tuple[int, ...], str]) -> list[float]:
    """Return 1 for each row whose written answer passes its check, else 0."""
    right = []
    for row in rows:
        check = build(ANSWER_CHECKS, row.verifier)
        text = answers[tuple(row_prompt(tokenizer, row))]
        right.append(float(check(text, row.reference or row.answer, []) is None))
    return right
