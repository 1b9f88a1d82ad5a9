"""Stage `record`: the teacher's next-token distributions on given text and answers, in one scoring pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from attar.compressors.data.prompts import first_tokens, text_windows
from attar.compressors.measure.likelihood import Pair, top_candidates
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.kinds.kind_facts import DatasetFacts
from attar.registry.artifacts.kinds.shard_facts import WHOLE, Shard
from attar.stages.artifacts.dataset.partial_rows import (
    PIECE,
    PIECES,
    Recorded,
    gather_pieces,
    in_pieces,
    row_sharding,
    write_pieces,
)
from attar.stages.artifacts.dataset.rows import Row, piece_split, read_rows
from attar.stages.artifacts.dataset.samples import exact_tokens
from attar.stages.artifacts.dataset.teacher_shards import recorded_facts, shard_name
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.model.placement import InMemory, Placement
from attar.stages.artifacts.work_forecast import rows_alike
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.runtime.device import Precision, pick_device, pick_dtype


class RecordConfig(StageConfig):
    """What is scored, and how much of each distribution is kept."""

    tokens: Literal["answers", "all"] = "all"
    """Which tokens get the teacher's candidates: those of the answers, or all but the first. Plain text is always recorded whole."""

    num_recorded: int = Field(default=64, ge=1)
    """How many candidates are kept for each token, with log-probabilities."""

    max_tokens: int = Field(default=512, ge=8)
    """Rows longer than this, prompt included, are cut at the end; plain text is cut into rows of it, of which every sixteenth is held out."""

    max_rows: int = Field(default=0, ge=0)
    """Take at most this many rows of the data set, in its order, after text was cut into rows; 0: all."""

    batch_size: int = Field(default=8, ge=1)
    """Rows in one forward pass."""

    rows_per_shard: int = Field(default=256, ge=1)
    """Rows in one file of the result, and so what a crash can cost."""

    precision: Precision = "auto"
    """Dtype of the teacher."""

    in_memory: InMemory = "auto"
    """model: the whole teacher; block: one decoder block at a time, from its file; auto: block where the teacher does not fit."""


@dataclass(frozen=True, kw_only=True)
class RecordInputs:
    """The teacher and the rows it reads."""

    model: ModelArtifact
    data: DatasetArtifact


def _forecast(config: RecordConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, data = inputs["model"][0], inputs["data"][0]
    facts = {**recorded_facts(config.num_recorded, model), **rows_alike(data)}
    num_parameters = float(model.get("num_parameters", 0))
    num_tokens = float(config.max_rows or data.get("num_rows", 0)) * config.max_tokens
    return Forecast(facts, num_flops=2.0 * num_parameters * num_tokens, peak_memory_bytes=6.0 * num_parameters)


def _write(config: RecordConfig, inputs: RecordInputs, shard: Shard, workdir: Path) -> int:
    """Record the shard's pieces and return how many there are in all."""
    device = pick_device()
    tokenizer = load_tokenizer(inputs.model.path)
    rows = list(_tokenized(config, inputs, tokenizer))
    rows = rows[: config.max_rows or len(rows)]
    if not rows:
        raise ValueError("the data set has no row of two tokens or more")
    # by length, so that a batch has little padding; ids keep the rows apart
    rows.sort(key=lambda row: (len(row.prompt_ids) + len(row.answer_ids), row.id))
    pieces = in_pieces(rows, config.rows_per_shard)
    shard.check(len(pieces), PIECE)
    placement = Placement.chosen(config.in_memory, inputs.model.path, 1, device, workdir / "changes")
    runner = TorchRunner(placement.load(inputs.model.path, pick_dtype(config.precision, device)))

    def score(piece: Sequence[Row], index: int, advance: Callable[[float], None]) -> tuple[list[Row], Recorded]:
        candidates = top_candidates(
            runner,
            [_recorded_part(config, row) for row in piece],
            num_candidates=config.num_recorded,
            batch_size=config.batch_size,
            on_scored=advance,
        )
        recorded = dict(zip((row.id for row in piece), candidates, strict=True))
        return [row.with_changes(recorded_in=shard_name(index)) for row in piece], recorded

    write_pieces(workdir / PIECES, "recording", pieces, score, shard)
    return len(pieces)


def _finish(config: RecordConfig, inputs: RecordInputs, folders: Sequence[Path], content: Path) -> DatasetArtifact:
    """Gather the pieces that lie in some folders into the data set."""
    rows = gather_pieces(folders, content)
    facts = DatasetFacts(
        name=inputs.data.facts.name or "recorded",
        num_rows=len(rows),
        num_heldout=sum(row.split == "heldout" for row in rows),
        num_recorded=config.num_recorded,
        vocab_size=inputs.model.facts.vocab_size,
    )
    return DatasetArtifact.at(content, facts)


def _max_pieces(config: RecordConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> int:
    # how many rows a text is cut into is known once it is read
    return ceil(config.max_rows / config.rows_per_shard)


@stage("record", version=2, forecast=_forecast, sharding=row_sharding(_write, _finish, _max_pieces))
def record(config: RecordConfig, inputs: RecordInputs, workdir: Path) -> DatasetArtifact:
    """Score every row once with the teacher and record its most likely next tokens. Distillation then needs no teacher in memory.

    Questions keep their answers; text becomes rows of `max_tokens`. Shards already written by an interrupted run are kept.
    Raises ValueError when there is nothing to read.
    """
    _write(config, inputs, WHOLE, workdir)
    return _finish(config, inputs, [workdir / PIECES], workdir / "content")


def _tokenized(config: RecordConfig, inputs: RecordInputs, tokenizer: Any) -> Iterator[Row]:
    """Yield the rows with the exact tokens that are scored."""
    for row in read_rows(inputs.data.path / "rows.jsonl"):
        if row.question or row.answer_ids:
            prompt, answer = exact_tokens(tokenizer, row)
            answer = answer[: max(0, config.max_tokens - len(prompt))]
            if answer:
                yield row.with_changes(prompt_ids=prompt, answer_ids=answer)
            continue
        for piece, (context, part) in enumerate(text_windows(tokenizer, row.text, config.max_tokens)):
            if part:
                # the words alone: what the tokenizer puts first stands among the ids
                text = tokenizer.decode(part if first_tokens(tokenizer) else [*context, *part])
                split = piece_split(row.split, piece)
                yield Row(f"{row.id}-{piece:05d}", text=text, split=split, prompt_ids=context, answer_ids=part)


def _recorded_part(config: RecordConfig, row: Row) -> Pair:
    """Return what only gives context, and the tokens that get candidates."""
    tokens = [*row.prompt_ids, *row.answer_ids]
    first = 1 if config.tokens == "all" else len(row.prompt_ids)
    return tokens[:first], tokens[first:]
