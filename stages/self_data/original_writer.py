"""The original model as a writer: it rewrites answers with the reference in view, and writes text of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.compressors.catalogue import build
from attar.compressors.data.choose import CHOOSERS, Candidate, Decision, decide
from attar.compressors.data.keep import Verdict
from attar.compressors.data.prompts import answer_tokens, start_token_id, stop_token_ids
from attar.compressors.data.styles import AUTO, STYLES, rewrite_question, style_of
from attar.compressors.data.verifiers.catalogue import BannedPhrases
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.measure.likelihood import top_candidates
from attar.compressors.models.ragged.lookup import Drafts
from attar.compressors.models.row_products import lay_out_weights
from attar.compressors.models.runner import CausalRunner, TorchRunner
from attar.compressors.models.sampling import Generation, Sampling
from attar.registry.artifacts.handles import PrefixArtifact
from attar.stages.artifacts.chat_server import ServerSampler
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS
from attar.stages.artifacts.dataset.partial_rows import Recorded
from attar.stages.artifacts.dataset.prompts import row_answer, row_prompt, with_last_question
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.dataset.teacher_shards import shard_name
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.artifacts.prefix.folder import prefixed
from attar.stages.artifacts.samplers import Prompt, RunnerSampler, Sampler, row_seed
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.self_data.config import SelfDataConfig
from attar.stages.self_data.drafting import DraftCounts, check_drafted

Tick = Callable[[float], None]


class OriginalWriter:
    """The original model with all that a shard needs."""

    def __init__(self, config: SelfDataConfig, folder: Path, prefix: PrefixArtifact | None = None) -> None:
        self.config, self._folder, self._prefix = config, folder, prefix
        self.tokenizer = load_tokenizer(folder)
        self.stop_ids = _stop_ids(self.tokenizer, folder)
        self.banned = BannedPhrases(tuple(phrase.lower() for phrase in config.prompt.banned_phrases))
        self.chooser = build(CHOOSERS, config.drawing.choose)
        self.draft_counts = DraftCounts()
        self.sampler = self._sampler()

    def _sampler(self) -> Sampler:
        config = self.config
        if config.server is not None:
            return ServerSampler(config.server, self.tokenizer)
        drafts = None
        if config.sampler == "torch" and config.drafts.max_tokens and self._prefix is None:  # drafts read no vectors
            drafts = Drafts(self.torch_runner, config.drafts.max_tokens)
        return RunnerSampler(self.runner, self.stop_ids, config.batch_size, drafts)

    @cached_property
    def torch_runner(self) -> TorchRunner:
        """The model in torch."""
        device = pick_device()
        model = load_model(self._folder, pick_dtype(self.config.precision, device), device)
        lay_out_weights(model)
        return TorchRunner(model)

    @cached_property
    def runner(self) -> CausalRunner:
        """The model in this process, behind its prefix, loaded when first needed: behind a server only to record distributions."""
        runner = OnnxRunner(open_session(self._folder)) if self.config.sampler == "onnx" else self.torch_runner
        return runner if self._prefix is None else prefixed(runner, self._prefix)

    def rewrite(self, rows: Sequence[Row], shard_index: int, on_finished: Tick) -> tuple[list[Row], Recorded]:
        """Return the rows with their answers decided, and what the teacher said about each.

        A turn that calls tools keeps its answer, and with `turns: last` so do all turns but the last of a conversation.
        """
        config, num_samples = self.config, self.config.drawing.num_samples
        questions = [row for row in rows if self._reason_to_keep(row) is None]
        prompts = [self._prompt(row, sample) for row in questions for sample in range(num_samples)]
        sampling = Sampling(temperature=config.drawing.temperature, top_p=config.drawing.top_p)
        generations = self.sampler.sample(
            prompts,
            max_new_tokens=config.drawing.max_new_tokens,
            sampling=sampling,
            num_recorded=config.recorded.num_candidates,
            is_scored=num_samples > 1,
            on_finished=lambda count: on_finished(count / num_samples),
        )
        if any(generation.num_drafted for generation in generations):
            model = self.torch_runner.model
            check_drafted(self.torch_runner, prompts, generations, sampling, is_exact=model.dtype == torch.float32)
        recorded: Recorded = {}
        decided = {}
        for index, row in enumerate(questions):
            its = slice(index * num_samples, (index + 1) * num_samples)
            self.draft_counts.add(self._style(row), generations[its])
            decided[row.id] = self._decide(row, prompts[its], generations[its], recorded, shard_index)
        return [decided.get(row.id) or self._keep(row, recorded, shard_index) for row in rows], recorded

    def write_freely(self, rows: Sequence[Row], shard_index: int, on_finished: Tick) -> tuple[list[Row], Recorded]:
        """Return the rows with a text of the model's own, and the distributions it drew them from."""
        start = start_token_id(self.tokenizer, self.config.free_texts.start)
        # a text that comes back to its start token is over
        sampler = RunnerSampler(self.runner, [*self.stop_ids, start], self.config.batch_size)
        generations = sampler.sample(
            [Prompt("", [start], row_seed(self.config.drawing.seed, row.id, 0)) for row in rows],
            max_new_tokens=self.config.free_texts.tokens,
            sampling=Sampling(temperature=1.0),
            num_recorded=self.config.recorded.num_candidates,
            on_finished=on_finished,
        )
        recorded: Recorded = {}
        written = []
        for row, generation in zip(rows, generations, strict=True):
            if generation.top_ids is not None and generation.top_logprobs is not None:
                recorded[row.id] = generation.top_ids, generation.top_logprobs
            text = self.tokenizer.decode(generation.token_ids, skip_special_tokens=True)
            written.append(
                row.with_changes(
                    text=text or " ",
                    source="free",
                    reason="free text (from the first token)",
                    prompt_ids=[start],
                    answer_ids=generation.token_ids,
                    recorded_in=shard_name(shard_index) if row.id in recorded else "",
                )
            )
        return written, recorded

    def _style(self, row: Row) -> str:
        return style_of(row.choices, row.verifier) if self.config.prompt.style == AUTO else self.config.prompt.style

    def _prompt(self, row: Row, sample_index: int) -> Prompt:
        template = self.config.prompt.template or STYLES[self._style(row)]
        row_asked = with_last_question(
            row, lambda question: rewrite_question(question, row.answer, row.choices, template)
        )
        seed = row_seed(self.config.drawing.seed, row.id, sample_index)
        return Prompt(
            row_asked.question, row_prompt(self.tokenizer, row_asked), seed, row_asked.messages, row_asked.tools
        )

    def _decide(
        self,
        row: Row,
        prompts: Sequence[Prompt],
        generations: Sequence[Generation],
        recorded: Recorded,
        shard_index: int,
    ) -> Row:
        texts = [self.tokenizer.decode(generation.token_ids, skip_special_tokens=True) for generation in generations]
        decision = decide(
            [
                Candidate(text, generation.is_finished, generation.mean_logprob_nats)
                for text, generation in zip(texts, generations, strict=True)
            ],
            row.answer,
            row.choices,
            build(ANSWER_CHECKS, row.verifier),
            self.banned,
            self.chooser,
        )
        generation, prompt = generations[decision.chosen_index], prompts[decision.chosen_index]
        answer_ids = self._answer_ids(decision.verdict, generation)
        teacher = self._teacher(row, decision, prompt, generation, answer_ids)
        if teacher is not None:
            recorded[row.id] = teacher
        return row.with_changes(
            answer=decision.verdict.answer,
            source=decision.verdict.source,
            reason=decision.verdict.reason,
            reference=row.answer,
            rewrite=texts[decision.chosen_index],
            pass_rate=decision.pass_rate,
            difficulty=1.0 - decision.pass_rate,
            answer_ids=answer_ids,
            recorded_in=shard_name(shard_index) if teacher is not None else "",
        )

    def _reason_to_keep(self, row: Row) -> str | None:
        """Return why a row is not rewritten, None where it is."""
        if row.reply:
            return "not rewritten (calls a tool)"
        if self.config.prompt.turns == "last" and not row.is_last_turn:
            return "not rewritten (an earlier turn)"
        return None

    def _keep(self, row: Row, recorded: Recorded, shard_index: int) -> Row:
        answer_ids = row_answer(self.tokenizer, row)
        is_scored = bool(self.config.recorded.num_candidates) and self.config.recorded.rows == "all"
        if is_scored:
            recorded[row.id] = self._score(row_prompt(self.tokenizer, row), answer_ids)
        return row.with_changes(
            source="reference",
            reason=self._reason_to_keep(row),
            reference=row.answer,
            answer_ids=answer_ids,
            recorded_in=shard_name(shard_index) if is_scored else "",
        )

    def _answer_ids(self, verdict: Verdict, generation: Generation) -> list[int]:
        if verdict.source == "rewrite":
            return generation.token_ids
        return answer_tokens(self.tokenizer, verdict.answer)

    def _teacher(
        self, row: Row, decision: Decision, prompt: Prompt, generation: Generation, answer_ids: list[int]
    ) -> tuple[Tensor, Tensor] | None:
        if not self.config.recorded.num_candidates:
            return None
        if decision.verdict.source == "rewrite":
            if generation.top_ids is not None and generation.top_logprobs is not None:
                return generation.top_ids, generation.top_logprobs
            return self._score(prompt.token_ids, answer_ids)  # a server's text: under the prompt that it answered
        if self.config.recorded.rows == "rewrites":
            return None
        # Without the reference in view: a model that sees the answer would only say "copy it".
        return self._score(row_prompt(self.tokenizer, row), answer_ids)

    def _score(self, prompt_ids: list[int], answer_ids: list[int]) -> tuple[Tensor, Tensor]:
        """Return the most probable candidates at each answer token, from one forward pass."""
        pairs = [(prompt_ids, answer_ids)]
        [scored] = top_candidates(self.runner, pairs, num_candidates=self.config.recorded.num_candidates, batch_size=1)
        return scored


def _stop_ids(tokenizer: Any, folder: Path) -> list[int]:
    from transformers import AutoConfig, GenerationConfig  # a second that a plan need not wait for

    if (folder / "generation_config.json").exists():
        return stop_token_ids(tokenizer, GenerationConfig.from_pretrained(folder))
    return stop_token_ids(tokenizer, AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
