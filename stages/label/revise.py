"""Stage `revise`: the model answers, is told whether that was right, answers again; what comes out right becomes training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from attar.compressors.catalogue import build
from attar.compressors.data.prompts import chat_prompt
from attar.compressors.distill.teachers.contexts import ContextParts, OwnAnswer, Wording
from attar.compressors.models.sampling import Generation, Sampling
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.kinds.kind_facts import DatasetFacts
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS
from attar.stages.artifacts.dataset.card import write_card
from attar.stages.artifacts.dataset.partial_rows import by_shard
from attar.stages.artifacts.dataset.prompts import row_prompt
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.samplers import Prompt, RunnerSampler, row_seed
from attar.stages.artifacts.work_forecast import rows_alike
from attar.stages.artifacts.writers import open_runner, stop_ids_of
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.runtime.device import Precision
from attar.stages.runtime.progress import metric, note

REVISED = "revised (verified)"


class ReviseConfig(StageConfig):
    """How answers and their revisions are drawn."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer, and longest revision, in tokens."""

    temperature: float = Field(default=1.0, gt=0.0)
    """Of both."""

    top_p: float = Field(default=0.9, gt=0.0, le=1.0)
    """Mass of the tokens that sampling chooses from."""

    num_samples: int = Field(default=1, ge=1)
    """Answers to each question that are revised."""

    revise_right: bool = False
    """Revise right answers too, behind the phrase that says so; else wrong ones alone."""

    right_phrase: str = OwnAnswer.right_phrase
    """What follows a right answer."""

    wrong_phrase: str = OwnAnswer.wrong_phrase
    """What follows a wrong answer."""

    batch_size: int = Field(default=32, ge=1)
    """Texts decoded together."""

    seed: int = 0
    """Seed of sampling; each answer has a generator of its own."""

    precision: Precision = "auto"
    """Dtype of the model while it writes."""


@dataclass(frozen=True, kw_only=True)
class ReviseInputs:
    """The model and the questions, each with a verifier."""

    model: ModelArtifact
    data: DatasetArtifact


def _forecast(config: ReviseConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, data = inputs["model"][0], inputs["data"][0]
    num_parameters, num_rows = float(model.get("num_parameters", 0)), float(data.get("num_rows", 0))
    num_flops = 2.0 * num_parameters * num_rows * config.num_samples * 3 * config.max_new_tokens
    return Forecast(
        {"num_recorded": 0, **rows_alike(data)}, num_flops=num_flops, peak_memory_bytes=6.0 * num_parameters
    )


@stage("revise", version=2, forecast=_forecast)
def revise(config: ReviseConfig, inputs: ReviseInputs, workdir: Path) -> DatasetArtifact:
    """Let the model answer, then revise behind a phrase that the verifier chooses; keep revisions that are right.

    Each kept one gives two rows: the question with answer, phrase and revision to learn, and all but the revision as the prompt.
    Raises ValueError when rows have no verifier, or nothing comes out right. https://arxiv.org/abs/2604.12002
    """
    rows = [row for row in read_rows(inputs.data.path / "rows.jsonl") if row.question]
    unjudged = [row.id for row in rows if row.verifier == "none"]
    if unjudged or not rows:
        raise ValueError(
            f"rows {', '.join(unjudged[:4])} have no verifier; set `verifier` in ingest_data"
            if rows
            else "no questions"
        )
    writer = _Reviser(config, inputs.model)
    rows_by_id = by_shard(workdir, "answering and revising", rows, writer.tuples)
    if not any(row.split == "train" for row in rows_by_id):
        raise ValueError(
            "no revision of a training row is right; raise num_samples or max_new_tokens, or take a stronger model"
        )
    metric("revised_fraction", len(rows_by_id) / (2 * len(rows) * config.num_samples))
    note(f"{len(rows_by_id) // 2} revisions are right, of {len(rows) * config.num_samples} answers")
    content = workdir / "content"
    write_rows(content / "rows.jsonl", rows_by_id)
    name = inputs.data.facts.name or "revised"
    write_card(content, rows_by_id, name=name)
    num_heldout = sum(row.split == "heldout" for row in rows_by_id)
    vocab_size = inputs.model.facts.vocab_size
    facts = DatasetFacts(
        name=name, num_rows=len(rows_by_id), num_heldout=num_heldout, num_recorded=0, vocab_size=vocab_size
    )
    return DatasetArtifact.at(content, facts)


class _Reviser:
    """The model as it answers and revises."""

    def __init__(self, config: ReviseConfig, model: ModelArtifact) -> None:
        self.config = config
        self.tokenizer: Any = load_tokenizer(model.path)
        stops = stop_ids_of(self.tokenizer, model.path)
        self.sampler = RunnerSampler(open_runner(model, config.precision), stops, config.batch_size)
        self.verdict_context = OwnAnswer(right_phrase=config.right_phrase, wrong_phrase=config.wrong_phrase)
        self.wording = Wording(
            render=lambda question: chat_prompt(self.tokenizer, question),
            encode=lambda text: self.tokenizer(text, add_special_tokens=False).input_ids,
            decode=lambda ids: self.tokenizer.decode(list(ids), skip_special_tokens=True),
            stop_ids=frozenset(stops),
        )

    def tuples(self, questions: Sequence[Row]) -> list[Row]:
        """Return both rows of every revision that is right."""
        rows = [row for row in questions for _ in range(self.config.num_samples)]
        samples = [sample for _ in questions for sample in range(self.config.num_samples)]
        prompts = [row_prompt(self.tokenizer, row) for row in rows]
        first = self._write(rows, prompts, [2 * sample for sample in samples])
        chosen = [i for i, text in enumerate(first) if self.config.revise_right or not self._is_right(rows[i], text)]
        behind = {i: self._behind(rows[i], prompts[i], first[i]) for i in chosen}
        second = self._write([rows[i] for i in chosen], list(behind.values()), [2 * samples[i] + 1 for i in chosen])
        pairs = []
        for i, revision in zip(chosen, second, strict=True):
            if self._is_right(rows[i], revision):
                pairs += self._pair(rows[i], samples[i], prompts[i], behind[i], revision)
        return pairs

    def _write(self, rows: Sequence[Row], prompts: Sequence[list[int]], draws: Sequence[int]) -> list[Generation]:
        requests = [
            Prompt("", ids, row_seed(self.config.seed, row.id, draw))
            for row, ids, draw in zip(rows, prompts, draws, strict=True)
        ]
        return self.sampler.sample(
            requests,
            max_new_tokens=self.config.max_new_tokens,
            sampling=Sampling(temperature=self.config.temperature, top_p=self.config.top_p),
        )

    def _is_right(self, row: Row, written: Generation) -> bool:
        text = self.wording.decode(written.token_ids)
        verifier = build(ANSWER_CHECKS, row.verifier)
        return written.is_finished and verifier(text, row.reference or row.answer, row.choices) is None

    def _behind(self, row: Row, prompt: list[int], first: Generation) -> list[int]:
        is_right = self._is_right(row, first)
        parts = ContextParts(question=row.question, prompt_ids=prompt, answer_ids=first.token_ids, is_correct=is_right)
        ids = self.verdict_context(parts, self.wording)
        assert ids is not None, "a verdict is there"
        return ids

    def _pair(self, row: Row, sample: int, prompt: list[int], behind: list[int], revision: Generation) -> list[Row]:
        text = self.wording.decode(revision.token_ids).strip()
        known = {
            "source": "rewrite",
            "reason": REVISED,
            "reference": row.reference or row.answer,
            "answer": text,
            "reply": {},
        }
        whole = [*behind[len(prompt) :], *revision.token_ids]
        return [
            row.with_changes(id=f"{row.id}.{sample}.whole", prompt_ids=prompt, answer_ids=whole, **known),
            row.with_changes(
                id=f"{row.id}.{sample}.revision", prompt_ids=behind, answer_ids=revision.token_ids, **known
            ),
        ]
