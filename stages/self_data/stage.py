"""Stage `self_data`: the original model rewrites the training answers, and its next-token distributions are recorded as it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from attar.compressors.data.compact import bytes_per_token
from attar.compressors.data.keep import reason_kind
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, OnnxArtifact, PrefixArtifact
from attar.registry.artifacts.kinds.kind_facts import DatasetFacts
from attar.registry.artifacts.kinds.shard_facts import WHOLE, Shard
from attar.stages.artifacts.dataset.card import write_card
from attar.stages.artifacts.dataset.original_losses import NUM_SCORED_ROWS, recorded_losses
from attar.stages.artifacts.dataset.partial_rows import (
    PIECE,
    PIECES,
    Recorded,
    gather_pieces,
    in_pieces,
    row_sharding,
    write_pieces,
)
from attar.stages.artifacts.dataset.rows import Row, Split, read_rows
from attar.stages.artifacts.dataset.teacher_shards import recorded_facts
from attar.stages.artifacts.prefix.folder import refuse_others_prefix, refuse_unfitting
from attar.stages.contract import Forecast, stage
from attar.stages.runtime.progress import metric, note
from attar.stages.self_data.config import SelfDataConfig
from attar.stages.self_data.drafting import DraftCounts
from attar.stages.self_data.original_writer import OriginalWriter


@dataclass(frozen=True, kw_only=True)
class SelfDataInputs:
    """The original model, or its exported graph, and the rows whose answers it rewrites. A prefix stands before all that it reads."""

    model: ModelArtifact | OnnxArtifact
    data: DatasetArtifact
    prefix: PrefixArtifact | None = None


def _forecast(config: SelfDataConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, data = inputs["model"][0], inputs["data"][0]
    if config.server is not None:
        config.server.check_key()
    # a graph says its format, a model its hidden size; where neither is known yet, the stage looks again
    if (config.sampler == "onnx" and "hidden_size" in model) or (config.sampler != "onnx" and "format" in model):
        raise ValueError(_wrong_sampler(config))
    for prefix in inputs.get("prefix", ()):
        refuse_unfitting(prefix, model)
        if config.server is not None:
            raise ValueError("server: it reads no vectors before a prompt; leave it or the input prefix out")
    num_rows = float(data.get("num_rows", 0))
    facts = recorded_facts(config.recorded.num_candidates, model)
    if num_rows:
        facts["num_rows"] = int(num_rows)
    num_rows = num_rows * config.drawing.num_samples + config.free_texts.num
    num_parameters = float(model.get("num_parameters", 0))
    # prompt with reference, then the answer, which is about as long as the limit at worst
    num_flops = 2.0 * num_parameters * num_rows * 2 * config.drawing.max_new_tokens
    disk = 0.0
    if config.recorded.num_candidates:
        token_bytes = bytes_per_token(config.recorded.num_candidates, int(model.get("vocab_size", 1 << 18)))
        disk = num_rows * config.drawing.max_new_tokens * token_bytes
    return Forecast(facts, num_flops=num_flops, peak_memory_bytes=6.0 * num_parameters, disk_bytes=disk)


def _write(config: SelfDataConfig, inputs: SelfDataInputs, shard: Shard, workdir: Path) -> int:
    """Write the shard's pieces and return how many there are in all."""
    rows = [row for row in read_rows(inputs.data.path / "rows.jsonl") if row.question]
    if not rows:
        raise ValueError("the data set has no questions to answer, only text")
    if inputs.model.is_graph != (config.sampler == "onnx"):
        raise ValueError(_wrong_sampler(config))
    # by length, so that a piece's rows are alike; ids keep the rows apart
    rows.sort(key=lambda row: (len(row.question) + len(row.answer), row.id))
    free = [Row(id=f"free-{index:06d}", split=_split(index)) for index in range(config.free_texts.num)]
    pieces = [piece for some in (rows, free) for piece in in_pieces(some, config.rows_of_piece)]
    shard.check(len(pieces), PIECE)
    writer = OriginalWriter(config, inputs.model.path, inputs.prefix)

    def write(piece: Sequence[Row], index: int, advance: Callable[[float], None]) -> tuple[list[Row], Recorded]:
        return (writer.rewrite if piece[0].question else writer.write_freely)(piece, index, advance)

    write_pieces(workdir / PIECES, "writing", pieces, write, shard)
    writer.draft_counts.save(workdir / PIECES)
    return len(pieces)


def _finish(config: SelfDataConfig, inputs: SelfDataInputs, folders: Sequence[Path], content: Path) -> DatasetArtifact:
    """Gather the pieces that lie in some folders into the data set."""
    rows = gather_pieces(folders, content)
    DraftCounts.of(folders).report()
    num_kept = _report(rows)
    name = inputs.data.facts.name or "rewritten"
    write_card(content, rows, name=name, losses=recorded_losses(content, rows, NUM_SCORED_ROWS))
    facts = DatasetFacts(
        name=name,
        num_rows=len(rows),
        num_heldout=sum(row.split == "heldout" for row in rows),
        num_rewritten=num_kept,
        num_recorded=config.recorded.num_candidates,
        vocab_size=inputs.model.facts.vocab_size,
    )
    return DatasetArtifact.at(content, facts)


def _max_pieces(config: SelfDataConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> int:
    num_rows = int(inputs["data"][0].get("num_rows", 0))  # rows of text too, which are no questions
    return sum(ceil(num / config.rows_of_piece) for num in (num_rows, config.free_texts.num)) if num_rows else 0


@stage(
    "self_data",
    version=6,
    forecast=_forecast,
    check=refuse_others_prefix,
    sharding=row_sharding(_write, _finish, _max_pieces),
)
def self_data(config: SelfDataConfig, inputs: SelfDataInputs, workdir: Path) -> DatasetArtifact:
    """Let the original model rewrite each answer with the reference in view; keep what passes, else the reference.

    Every row says who wrote its answer and why. Shards already written by an interrupted run are kept. https://arxiv.org/abs/2410.09982
    Free texts are the model's own from the first token, as in https://arxiv.org/abs/2305.17888.
    """
    _write(config, inputs, WHOLE, workdir)
    return _finish(config, inputs, [workdir / PIECES], workdir / "content")


def _report(rows: list[Row]) -> int:
    """Say how many rewrites were kept and why the others were not; return how many."""
    questions = [row for row in rows if row.question]
    num_kept = sum(row.source == "rewrite" for row in questions)
    metric("kept_fraction", num_kept / len(questions))
    metric("pass_rate", sum(row.pass_rate or 0.0 for row in questions) / len(questions))
    reasons = Counter(reason_kind(row.reason) for row in questions if row.source == "reference").most_common(4)
    why = "".join(f"; {count} {reason}" for reason, count in reasons)
    if num_kept:
        note(f"kept {num_kept} of {len(questions)} rewrites{why}")
    else:
        note(f"warning: no rewrite was accepted, all {len(questions)} rows keep their reference answers{why}")
    return num_kept


def _wrong_sampler(config: SelfDataConfig) -> str:
    kind = "a Hugging Face model" if config.sampler == "onnx" else "an exported ONNX graph"
    wanted = "torch or server" if config.sampler == "onnx" else "onnx"
    return f"sampler is {config.sampler!r}, but the input is {kind}; accepted: {wanted}"


def _split(index: int) -> Split:
    if index % 8:
        return "train"
    return "choose" if index % 16 else "heldout"
