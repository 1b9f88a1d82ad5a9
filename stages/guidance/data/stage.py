"""Stage `guide_data`: continuations drawn from the two-pass guided distribution. Each has a scale of its own and is recorded as it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch

from attar.compressors.data.compact import bytes_per_token
from attar.compressors.data.prompts import stop_token_ids
from attar.compressors.guidance.branches import Branch
from attar.compressors.guidance.two_pass import GuidedPrompt, TwoPassRunner
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.sampling import Sampling
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.kinds.kind_facts import DatasetFacts
from attar.registry.artifacts.kinds.shard_facts import WHOLE, Shard
from attar.stages.artifacts.dataset.card import write_card
from attar.stages.artifacts.dataset.partial_rows import (
    PIECE,
    PIECES,
    Recorded,
    gather_pieces,
    in_pieces,
    row_sharding,
    write_pieces,
)
from attar.stages.artifacts.dataset.rows import Row, read_rows
from attar.stages.artifacts.dataset.teacher_shards import recorded_facts, shard_name
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.samplers import row_seed
from attar.stages.artifacts.work_forecast import rows_alike
from attar.stages.contract import Forecast, check_vocabulary, stage
from attar.stages.guidance.data.config import GuideDataConfig
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import metric, note


@dataclass(frozen=True, kw_only=True)
class GuideDataInputs:
    """The model that is guided, the questions, and where the unguided branch is a weaker model, that model."""

    model: ModelArtifact
    data: DatasetArtifact
    weak: ModelArtifact | None = None


def _forecast(config: GuideDataConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, data, weak = inputs["model"][0], inputs["data"][0], inputs.get("weak", ())
    if (config.branch_kind == "weak_model") != bool(weak):
        given = "given" if weak else "missing"
        raise ValueError(
            f"unguided.kind is {config.branch_kind!r}, but the input weak is {given}; the two belong together"
        )
    for beside in weak:
        check_vocabulary(model, beside, "weak model")
    facts: Facts = {**recorded_facts(config.num_recorded, model), **_scale_facts(config), **rows_alike(data)}
    num_rows = float(config.max_rows or data.get("num_rows", 0)) * config.drawing.num_samples
    num_parameters = float(model.get("num_parameters", 0))
    token_bytes = bytes_per_token(config.num_recorded, int(model.get("vocab_size", 1 << 18)))
    return Forecast(
        facts,
        num_flops=2 * 2.0 * num_parameters * num_rows * 2 * config.drawing.max_new_tokens,
        peak_memory_bytes=6.0 * num_parameters * (1 + len(weak)),
        disk_bytes=num_rows * config.drawing.max_new_tokens * token_bytes,
    )


def _write(config: GuideDataConfig, inputs: GuideDataInputs, shard: Shard, workdir: Path) -> int:
    """Draw the shard's pieces and return how many there are in all."""
    questions = [row for row in read_rows(inputs.data.path / "rows.jsonl") if row.question]
    questions = questions[: config.max_rows or len(questions)]
    if not questions:
        raise ValueError("the data set has no questions to answer, only text")
    writer = _Writer.load(config, inputs)
    rows = [example for row in questions for example in writer.copies(row)]
    rows.sort(key=lambda row: (len(row.prompt_ids), row.id))
    pieces = in_pieces(rows, config.rows_per_shard)
    shard.check(len(pieces), PIECE)
    write_pieces(workdir / PIECES, "writing under guidance", pieces, writer.write, shard)
    return len(pieces)


def _finish(
    config: GuideDataConfig, inputs: GuideDataInputs, folders: Sequence[Path], content: Path
) -> DatasetArtifact:
    """Gather the pieces that lie in some folders into the data set."""
    rows = gather_pieces(folders, content)
    name = inputs.data.facts.name or "guided"
    write_card(content, rows, name=name)
    num_tokens = sum(len(row.answer_ids) for row in rows)
    metric("num_guided_tokens", num_tokens)
    note(f"{len(rows)} continuations, {num_tokens:,} tokens, scales {config.scales.min:g} to {config.scales.max:g}")
    facts = DatasetFacts(
        name=name,
        num_rows=len(rows),
        num_heldout=sum(row.split == "heldout" for row in rows),
        num_recorded=config.num_recorded,
        vocab_size=inputs.model.facts.vocab_size,
        guided_model=inputs.model.fingerprint,
        **_scale_facts(config),
    )
    return DatasetArtifact.at(content, facts)


def _max_pieces(config: GuideDataConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> int:
    num_rows = int(inputs["data"][0].get("num_rows", 0))
    num_copies = max(config.drawing.num_samples, 2 if config.scales.unseen else 1)
    return ceil(min(num_rows, config.max_rows or num_rows) * num_copies / config.rows_per_shard)


@stage("guide_data", version=2, forecast=_forecast, sharding=row_sharding(_write, _finish, _max_pieces))
def guide_data(config: GuideDataConfig, inputs: GuideDataInputs, workdir: Path) -> DatasetArtifact:
    """Draw continuations from l_u + w (l_c - l_u), w drawn for each, and record that distribution's candidates.

    The states of training are those that guidance itself visits: https://arxiv.org/abs/2503.07274. Held-out questions are answered
    under a trained scale and under the unseen one. Shards already written by an interrupted run are kept.
    """
    _write(config, inputs, WHOLE, workdir)
    return _finish(config, inputs, [workdir / PIECES], workdir / "content")


@dataclass(frozen=True)
class _Writer:
    config: GuideDataConfig
    tokenizer: Any
    branch: Branch
    conditional: TorchRunner
    unguided: TorchRunner

    @staticmethod
    def load(config: GuideDataConfig, inputs: GuideDataInputs) -> _Writer:
        """Load both branches: one model, unless the unguided one is weaker."""
        device = pick_device()
        dtype = pick_dtype(config.precision, device)
        conditional = TorchRunner(load_model(inputs.model.path, dtype, device))
        weak = None if inputs.weak is None else TorchRunner(load_model(inputs.weak.path, dtype, device))
        tokenizer = load_tokenizer(inputs.model.path)
        return _Writer(config, tokenizer, config.unguided, conditional, weak or conditional)

    def copies(self, row: Row) -> list[Row]:
        """Return a question once for each continuation, with both branches' prompts and a scale."""
        config = self.config
        prompt, unguided = self.branch(self.tokenizer, row.question)
        is_heldout = row.split != "train"
        scales = [
            config.scales.at(_uniform(config.seed, row.id, index))
            for index in range(1 if is_heldout else config.drawing.num_samples)
        ]
        if is_heldout and config.scales.unseen:
            scales.append(config.scales.unseen)
        return [
            row.with_changes(
                id=f"{row.id}-g{index:02d}", guidance_scale=scale, prompt_ids=prompt, unguided_ids=unguided
            )
            for index, scale in enumerate(scales)
        ]

    def write(
        self, rows: Sequence[Row], shard_index: int, advance: Callable[[float], None]
    ) -> tuple[list[Row], Recorded]:
        """Return the rows with their continuations, and what guidance said at each token."""
        runner = TwoPassRunner(self.conditional, self.unguided, max(len(row.unguided_ids) for row in rows))
        prompts = [GuidedPrompt(row.prompt_ids, row.unguided_ids, row.guidance_scale or 0.0) for row in rows]
        generations = decode(
            runner,
            prompts,
            max_new_tokens=self.config.drawing.max_new_tokens,
            stop_ids=stop_token_ids(self.tokenizer, self.conditional.model.generation_config),
            batch_size=self.config.batch_size,
            sampling=Sampling(temperature=self.config.drawing.temperature, top_p=self.config.drawing.top_p),
            seeds=[row_seed(self.config.seed, row.id, 0) for row in rows],
            num_recorded=self.config.num_recorded,
            on_finished=advance,
        )
        recorded: Recorded = {}
        written = []
        for row, generation in zip(rows, generations, strict=True):
            assert generation.top_ids is not None and generation.top_logprobs is not None, "asked for"
            recorded[row.id] = generation.top_ids, generation.top_logprobs
            text = self.tokenizer.decode(generation.token_ids, skip_special_tokens=True)
            written.append(
                row.with_changes(
                    reference=row.answer,
                    answer=text,
                    answer_ids=generation.token_ids,
                    source="guided",
                    reason=f"guided (scale {row.guidance_scale:.3g})",
                    recorded_in=shard_name(shard_index),
                )
            )
        return written, recorded


def _uniform(seed: int, row_id: str, index: int) -> float:
    generator = torch.Generator().manual_seed(row_seed(seed, f"scale {row_id}", index))
    return float(torch.rand(1, generator=generator, dtype=torch.float64))


def _scale_facts(config: GuideDataConfig) -> Facts:
    return {
        "unguided": config.branch_kind,
        "min_scale": config.scales.min,
        "max_scale": config.scales.max,
        "unseen_scale": config.scales.unseen,
    }
