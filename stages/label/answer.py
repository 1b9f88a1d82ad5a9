"""Stage `answer`: a model answers questions from the question alone. Several times where wanted; each answer is checked and a row of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from attar.compressors.catalogue import build
from attar.compressors.measure.anchored import AnchorBudget, AnchoredRunner
from attar.compressors.measure.likelihood import continuation_likelihoods
from attar.compressors.models.runner import SlotSource
from attar.compressors.models.sampling import Generation, Sampling
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, OnnxArtifact, PrefixArtifact
from attar.registry.artifacts.kinds.kind_facts import DatasetFacts
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS
from attar.stages.artifacts.dataset.card import write_card
from attar.stages.artifacts.dataset.partial_rows import by_shard
from attar.stages.artifacts.dataset.prompts import row_prompt
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.prefix.folder import refuse_others_prefix, refuse_unfitting
from attar.stages.artifacts.samplers import Prompt, RunnerSampler, row_seed
from attar.stages.artifacts.work_forecast import rows_alike
from attar.stages.artifacts.writers import open_runner, stop_ids_of
from attar.stages.contract import Forecast, check_vocabulary, stage
from attar.stages.label.answer_config import AnswerConfig
from attar.stages.runtime.progress import bar, metric, note

ANSWERED = "answered (from the question alone)"


@dataclass(frozen=True, kw_only=True)
class AnswerInputs:
    """The model that answers, the questions, and an anchor that bounds how far it may go. A prefix stands before every prompt of the model."""

    model: ModelArtifact | OnnxArtifact
    data: DatasetArtifact
    anchor: ModelArtifact | OnnxArtifact | None = None
    prefix: PrefixArtifact | None = None


def _forecast(config: AnswerConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, data = inputs["model"][0], inputs["data"][0]
    anchor = next(iter(inputs.get("anchor", ())), None)
    if anchor is not None:
        check_vocabulary(model, anchor, "anchor")
        if config.temperature == 0.0:
            raise ValueError("temperature is 0, but an anchor bounds what is drawn; accepted: above 0")
    for prefix in inputs.get("prefix", ()):
        refuse_unfitting(prefix, model)
    num_answers = float(data.get("num_rows", 0)) * config.num_samples
    num_parameters = sum(float(facts.get("num_parameters", 0)) for facts in (model, anchor) if facts)
    facts = {"vocab_size": model["vocab_size"]} if "vocab_size" in model else {}
    num_flops = 2.0 * num_parameters * num_answers * config.max_new_tokens
    return Forecast(
        {**facts, "num_recorded": 0, **rows_alike(data)}, num_flops=num_flops, peak_memory_bytes=6.0 * num_parameters
    )


@stage("answer", version=2, forecast=_forecast, check=refuse_others_prefix)
def answer(config: AnswerConfig, inputs: AnswerInputs, workdir: Path) -> DatasetArtifact:
    """Answer each question with it alone in view; every row says the share of its question's answers that pass.

    With an anchor the text stays within a KL budget of it; with a prefix its vectors stand before every question. Shards written by an
    interrupted run are kept.
    Raises ValueError when no answer stays. https://arxiv.org/abs/2602.07120
    """
    rows = sorted(
        (row for row in read_rows(inputs.data.path / "rows.jsonl") if row.question),
        key=lambda row: (len(row.question), row.id),
    )
    if not rows:
        raise ValueError("the data set has no questions to answer, only text")
    writer = _Writer(config, inputs)
    answered = by_shard(workdir, "answering", rows, writer.answer, config.rows_per_shard)
    return _finish(config, inputs, workdir / "content", answered)


class _Writer:
    """The model, alone or anchored, with all that a shard needs."""

    def __init__(self, config: AnswerConfig, inputs: AnswerInputs) -> None:
        self.config = config
        self.tokenizer = load_tokenizer(inputs.model.path)
        self.sampling = Sampling(temperature=config.temperature, top_p=config.top_p)
        self.runner = open_runner(inputs.model, config.precision, inputs.prefix)
        self.anchor = None if inputs.anchor is None else open_runner(inputs.anchor, config.precision)
        stepper: SlotSource = self.runner
        if self.anchor is not None:
            budget = AnchorBudget(nats_per_token=config.anchor_nats_per_token, num_debt_tokens=config.num_debt_tokens)
            stepper = AnchoredRunner(safe=self.anchor, risky=self.runner, budget=budget, sampling=self.sampling)
            self.sampling = Sampling(temperature=1.0)  # heat and cut are applied inside, before the two are fused
        self.sampler = RunnerSampler(stepper, stop_ids_of(self.tokenizer, inputs.model.path), config.batch_size)

    def answer(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows of all answers, each judged, in the order of their questions."""
        num_samples = self.config.num_samples
        prompts = [self._prompt(row, sample) for row in rows for sample in range(num_samples)]
        counter = bar("writing a shard", len(prompts), "answers")
        written = self.sampler.sample(
            prompts,
            max_new_tokens=self.config.max_new_tokens,
            sampling=self.sampling,
            is_scored=True,
            on_finished=counter.advance,
        )
        answered = []
        for index, row in enumerate(rows):
            its = slice(index * num_samples, (index + 1) * num_samples)
            answered += self._judged(row, written[its])
        if self.anchor is not None and self.config.temperature == 1.0 and self.config.top_p == 1.0:
            self._report_distance(prompts, written)
        return answered

    def _prompt(self, row: Row, sample: int) -> Prompt:
        ids = row_prompt(self.tokenizer, row)
        return Prompt(row.question, ids, row_seed(self.config.seed, row.id, sample), row.messages, row.tools)

    def _judged(self, row: Row, written: Sequence[Generation]) -> list[Row]:
        reference, verifier = row.reference or row.answer, build(ANSWER_CHECKS, row.verifier)
        texts = [self.tokenizer.decode(answer.token_ids, skip_special_tokens=True).strip() for answer in written]
        passes = [
            answer.is_finished and bool(text) and verifier(text, reference, row.choices) is None
            for text, answer in zip(texts, written, strict=True)
        ]
        is_kept = {
            "all": [True] * len(texts),
            "finished": [answer.is_finished for answer in written],
            "passing": passes,
        }
        pass_rate = sum(passes) / len(passes)
        return [
            row.with_changes(
                id=f"{row.id}.{sample}",
                answer=text,
                reference=reference,
                source="rewrite",
                reason=ANSWERED,
                reply={},
                answer_ids=written[sample].token_ids,
                pass_rate=pass_rate,
                difficulty=1.0 - pass_rate,
            )
            for sample, text in enumerate(texts)
            if is_kept[self.config.keep][sample] and text
        ]

    def _report_distance(self, prompts: Sequence[Prompt], written: Sequence[Generation]) -> None:
        """Tell the mean of log q - log anchor over the drawn texts: an unbiased estimate of KL(q || anchor), in nats a token."""
        assert self.anchor is not None, "asked for with an anchor"
        pairs = [(prompt.token_ids, answer.token_ids) for prompt, answer in zip(prompts, written, strict=True)]
        with torch.inference_mode():
            scored = continuation_likelihoods(self.anchor, pairs, batch_size=self.config.batch_size)
        ratio = sum(
            (answer.logprob_nats or 0.0) - safe.logprob_nats for answer, safe in zip(written, scored, strict=True)
        )
        metric("kl_to_anchor_nats", ratio / max(1, sum(score.num_tokens for score in scored)))


def _finish(config: AnswerConfig, inputs: AnswerInputs, content: Path, rows: list[Row]) -> DatasetArtifact:
    if not any(row.split == "train" for row in rows):
        raise ValueError(
            f"no answer of a training row stays with keep {config.keep!r}; accepted: a weaker keep, more num_samples"
        )
    rows.sort(key=lambda row: row.id)
    write_rows(content / "rows.jsonl", rows)
    rates = {row.id.rpartition(".")[0]: row.pass_rate or 0.0 for row in rows}
    metric("pass_rate", sum(rates.values()) / len(rates))
    note(f"{len(rows)} answers to {len(rates)} questions stay")
    name = inputs.data.facts.name or "answers"
    write_card(content, rows, name=name)
    facts = DatasetFacts(
        name=name,
        num_rows=len(rows),
        num_heldout=sum(row.split == "heldout" for row in rows),
        num_recorded=0,
        vocab_size=inputs.model.facts.vocab_size,
    )
    return DatasetArtifact.at(content, facts)
