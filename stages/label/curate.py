"""Stage `curate`: leave out rows that repeat others, hold evaluation questions or loop. Too long, too easy or too hard ones go as well."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attar.compressors.data.keep import reason_kind
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact
from attar.registry.artifacts.kinds.kind_facts import DatasetFacts
from attar.stages.artifacts.dataset.card import write_card
from attar.stages.artifacts.dataset.curation import Curation
from attar.stages.artifacts.dataset.measured_data import measured_rows, unique_names
from attar.stages.artifacts.dataset.original_losses import Losses, losses_under_model, recorded_losses
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.artifacts.dataset.teacher_shards import carry_candidates
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.contract import Forecast, check_vocabulary, stage
from attar.stages.label.curate_config import CurateConfig, CurateInputs
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import metric, note


def _forecast(config: CurateConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    data = inputs["data"][0]
    model = next(iter(inputs.get("model", ())), None)
    if (config.length.min_tokens or config.length.max_tokens) and model is None and "num_recorded" not in data:
        name = "max_tokens" if config.length.max_tokens else "min_tokens"
        raise ValueError(
            f"length.{name} is {getattr(config.length, name)}: no tokens to count; give the input model, or use characters"
        )
    facts = {name: data[name] for name in ("num_rows", "num_recorded", "vocab_size") if name in data}
    if model is None:
        return Forecast(facts)
    check_vocabulary(model, data, "recorded teacher")
    num_parameters = float(model.get("num_parameters", 0))
    # a rewrite and its reference, prompts included
    num_scored = min(config.num_scored_rows, float(data.get("num_rows", config.num_scored_rows)))
    num_flops = 2.0 * num_parameters * num_scored * 2 * 300
    return Forecast(facts, num_flops=num_flops, peak_memory_bytes=6.0 * num_parameters * bool(config.num_scored_rows))


@stage("curate", version=4, forecast=_forecast)
def curate(config: CurateConfig, inputs: CurateInputs, workdir: Path) -> DatasetArtifact:
    """Leave out repeated, contaminated, looping, over-long and too easy or hard rows; say which and why in a data card.

    Rows keep their ids, order and recorded teacher. Raises ValueError when nothing is left to train on or to hold out.
    """
    rows = read_rows(inputs.data.path / "rows.jsonl")
    tokenizer = load_tokenizer(inputs.model.path) if inputs.model else None
    curation, length, duplicates = Curation(rows), config.length, config.duplicates
    curation.keep_lengths(length.min_characters, length.max_characters, "characters", lambda row: len(_row_text(row)))
    if length.min_tokens or length.max_tokens:
        curation.keep_lengths(length.min_tokens, length.max_tokens, "tokens", lambda row: _num_tokens(row, tokenizer))
    curation.keep_varied(config.min_distinct_fraction)
    curation.keep_pass_rates(config.min_pass_rate, config.max_pass_rate)
    if duplicates.threshold:
        curation.keep_unique(duplicates.threshold, duplicates.of, duplicates.shingle_words)
    if inputs.tasks:
        options = config.contamination.model_dump(exclude={"rows"})
        names = unique_names(inputs.tasks, "task")
        tasks = [(name, measured_rows(data)) for name, data in zip(names, inputs.tasks, strict=True)]
        for name, some in tasks:
            if not some:
                raise ValueError(f"tasks: data set {name!r} has neither questions nor text")
        curation.keep_unseen(tasks, config.contamination.rows, **options)
    curation.keep_budget(config.budget.max_rows, config.budget.keep_fraction, config.budget.by)
    curation.check()
    return _finish(config, inputs, workdir / "content", curation)


def _row_text(row: Row) -> str:
    return row.answer or row.text


def _num_tokens(row: Row, tokenizer: Any) -> int:
    if row.answer_ids:
        return len(row.answer_ids)
    if tokenizer is None:
        raise ValueError(f"row {row.id} has no tokens to count: give the input model, or use characters")
    return len(tokenizer(_row_text(row), add_special_tokens=False).input_ids)


def _finish(config: CurateConfig, inputs: CurateInputs, content: Path, curation: Curation) -> DatasetArtifact:
    rows, facts = curation.rows, inputs.data.facts
    write_rows(content / "rows.jsonl", rows)
    carry_candidates(inputs.data.path, content, rows)
    for kind, count in curation.counts.items():
        # a task's name may hold what MLflow refuses in a metric's
        metric("num_dropped_" + re.sub(r"[^\w.-]", "_", kind), count)
    metric("kept_fraction", len(rows) / (len(rows) + len(curation.dropped)))
    why = "".join(f"; {count} {kind}" for kind, count in curation.counts.most_common())
    note(f"kept {len(rows)} of {len(rows) + len(curation.dropped)} rows{why}")
    name = facts.name or "curated"
    write_card(content, rows, name=name, dropped=curation.dropped, losses=_losses(config, inputs, rows))
    num_rewritten = sum(reason_kind(row.reason) == "rewritten" for row in rows)
    made = DatasetFacts(
        name=name,
        num_rows=len(rows),
        num_heldout=sum(row.split == "heldout" for row in rows),
        num_rewritten=None if facts.num_rewritten is None else num_rewritten,
        num_dropped=len(curation.dropped),
        num_recorded=facts.num_recorded,
        vocab_size=facts.vocab_size,
    )
    return DatasetArtifact.at(content, made)


def _losses(config: CurateConfig, inputs: CurateInputs, rows: list[Row]) -> Losses | None:
    if not config.num_scored_rows:
        return None
    if inputs.model is None:
        return recorded_losses(inputs.data.path, rows, config.num_scored_rows)
    device = pick_device()
    dtype = pick_dtype(config.precision, device)
    return losses_under_model(inputs.model.path, rows, config.num_scored_rows, dtype, device)
