"""What the models of a chain answer. And how probable each token of two answers was before and behind a change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attar.compressors.data.prompts import choice_tokens, encoded, stop_token_ids
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.measure.choices import choice_likelihoods
from attar.compressors.measure.likelihood import token_logprobs
from attar.compressors.models.runner import ForkingRunner, TorchRunner
from attar.registry.artifacts.handles import Artifact, ModelArtifact, OnnxArtifact
from attar.stages.artifacts.dataset.prompts import choice_context, row_prompt
from attar.stages.artifacts.dataset.right_answers import right_answers, written_answers
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.runtime.device import Precision, pick_device, pick_dtype

BATCH_SIZE = 16
# Forms that are asked here, by torch and by onnxruntime.
QUESTIONED = (ModelArtifact.kind, OnnxArtifact.kind)


@dataclass(frozen=True)
class Answer:
    """What was written, or chosen. `is_right`: by the question's check; None of a prompt that has none."""

    text: str
    is_right: bool | None = None

    def is_same(self, other: Answer) -> bool:
        """Say whether both are right or both wrong; without a check, whether the texts are the same."""
        return self.text == other.text if self.is_right is None else self.is_right == other.is_right


@dataclass(frozen=True)
class TokenOdds:
    """A token of an answer with its probability to the model before and behind the change. None where its tokenizer cuts otherwise."""

    token: str
    before: float | None
    after: float | None


def refuse_not_asked(artifact: Artifact) -> None:
    """Raise ValueError for a model that writes no text, and for a form that is not run here."""
    if artifact.kind not in QUESTIONED:
        raise ValueError(
            f"a stage's change of an answer is looked for in text that models write, and this is of kind {artifact.kind}; accepted: the form model "
            "or onnx of a causal language model"
        )


@dataclass(frozen=True)
class Opened:
    """A model of the chain in memory, with its tokenizer."""

    runner: ForkingRunner
    tokenizer: Any
    stop_ids: Sequence[int]

    @staticmethod
    def of(artifact: Artifact, precision: Precision = "float32") -> Opened:
        """Load a model or open a graph."""
        from transformers import GenerationConfig  # a second that a command's help need not wait for

        folder = artifact.path
        tokenizer = load_tokenizer(folder)
        has_config = (folder / "generation_config.json").exists()
        stop_ids = stop_token_ids(tokenizer, GenerationConfig.from_pretrained(folder) if has_config else None)
        if artifact.is_graph:
            return Opened(OnnxRunner(open_session(folder)), tokenizer, stop_ids)
        device = pick_device()
        return Opened(TorchRunner(load_model(folder, pick_dtype(precision, device), device)), tokenizer, stop_ids)

    def answers(self, rows: Sequence[Row], max_new_tokens: int) -> list[Answer]:
        """Answer questions, greedily in words or by the likeliest choice."""
        open_rows = [row for row in rows if not row.choices]
        texts = (
            written_answers(
                self.runner,
                open_rows,
                self.tokenizer,
                max_new_tokens=max_new_tokens,
                stop_ids=self.stop_ids,
                batch_size=BATCH_SIZE,
            )
            if open_rows
            else {}
        )
        chosen = iter(self._chosen([row for row in rows if row.choices]))
        answers = []
        for row in rows:
            if row.choices:
                index = next(chosen)
                answers.append(Answer(row.choices[index], index == row.answer_index))
                continue
            is_checked = row.verifier != "none"
            right = right_answers([row], self.tokenizer, texts)[0] == 1.0 if is_checked else None
            answers.append(Answer(texts[tuple(row_prompt(self.tokenizer, row))].strip(), right))
        return answers

    def odds(self, row: Row, text: str) -> list[tuple[str, float]]:
        """Return (token, probability) of an answer behind its question."""
        context = choice_context(row) if row.choices else ""
        pair = (
            (encoded(self.tokenizer, context), choice_tokens(self.tokenizer, context, text))
            if row.choices
            else (row_prompt(self.tokenizer, row), self.tokenizer(text, add_special_tokens=False).input_ids)
        )
        if not pair[1]:
            return []
        [logprobs] = token_logprobs(self.runner, [pair], batch_size=1)
        tokens = [self.tokenizer.decode([token]) for token in pair[1]]
        return [(token, math.exp(logprob)) for token, logprob in zip(tokens, logprobs, strict=True)]

    def _chosen(self, rows: Sequence[Row]) -> list[int]:
        """Return the index of the likeliest choice per character of each row."""
        contexts = [choice_context(row) for row in rows]
        questions = [
            (
                encoded(self.tokenizer, context),
                [choice_tokens(self.tokenizer, context, choice) for choice in row.choices],
            )
            for context, row in zip(contexts, rows, strict=True)
        ]
        scored = choice_likelihoods(self.runner, questions, batch_size=BATCH_SIZE) if questions else []
        scores = [
            [logprob / len(choice) for choice, logprob in zip(row.choices, logprobs, strict=True)]
            for row, logprobs in zip(rows, scored, strict=True)
        ]
        return [some.index(max(some)) for some in scores]


def beside(before: Sequence[tuple[str, float]], after: Sequence[tuple[str, float]]) -> list[TokenOdds]:
    """Return the tokens of an answer with both models' probabilities. Where the two cut the text otherwise, each model's own tokens."""
    if [token for token, _ in before] == [token for token, _ in after]:
        return [TokenOdds(token, first, second) for (token, first), (_, second) in zip(before, after, strict=True)]
    own = [TokenOdds(token, first, None) for token, first in before]
    return own + [TokenOdds(token, None, second) for token, second in after]
