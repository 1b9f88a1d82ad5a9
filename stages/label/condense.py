"""Stage `condense`: a compressor makes vectors of demonstrations, seen in its training or not, in one pass."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import Field

from attar.compressors.adapt.compressor import PrefixCompressor
from attar.compressors.distill.teachers.contexts import Shown
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import CompressorArtifact, DatasetArtifact, ModelArtifact, PrefixArtifact
from attar.registry.artifacts.kinds.prefix_facts import PrefixFacts
from attar.stages.artifacts.dataset.prompts import wording_of
from attar.stages.artifacts.dataset.rows import read_rows, split_rows
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.prefix.demonstrations import context_length, demonstration_ids, shown_in_turn
from attar.stages.artifacts.prefix.folder import (
    load_compressor,
    read_context,
    refuse_other_model,
    refuse_unfitting,
    write_prefix,
)
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.runtime.device import Precision, pick_device, pick_dtype
from attar.stages.runtime.progress import metric, note


class CondenseConfig(StageConfig):
    """Which rows of the data are condensed."""

    num_shown: int = Field(default=3, ge=1)
    """Demonstrations: the first training questions of the data."""

    precision: Precision = "auto"
    """Dtype of the model's embedding; the compressor is float32."""


@dataclass(frozen=True, kw_only=True)
class CondenseInputs:
    """The model that will read the vectors, a compressor trained for it, and the data whose first questions are condensed."""

    model: ModelArtifact
    compressor: CompressorArtifact
    data: DatasetArtifact


def _forecast(config: CondenseConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, compressor = inputs["model"][0], inputs["compressor"][0]
    refuse_unfitting(compressor, model)
    facts = {name: compressor[name] for name in ("num_vectors", "hidden_size", "vocab_size") if name in compressor}
    return Forecast(
        {**facts, "num_demonstrations": config.num_shown},
        peak_memory_bytes=5.0 * float(model.get("num_parameters", 0)),
    )


def _check(config: CondenseConfig, inputs: CondenseInputs) -> None:
    refuse_other_model(inputs.compressor, inputs.model)


@stage("condense", version=1, forecast=_forecast, check=_check)
def condense(config: CondenseConfig, inputs: CondenseInputs, workdir: Path) -> PrefixArtifact:
    """Turn demonstrations into vectors that stand before a prompt in their place.

    Raises ValueError for too few questions, and for demonstrations longer than the model reads. https://arxiv.org/abs/2403.06914
    """
    tokenizer = load_tokenizer(inputs.model.path)
    shown, ids = _shown(config, inputs, tokenizer)
    device, num_vectors = pick_device(), inputs.compressor.facts.num_vectors
    limit = context_length(inputs.model.path)
    if limit and len(ids) + num_vectors > limit:
        raise ValueError(
            f"num_shown is {config.num_shown}: {len(ids)} tokens and {num_vectors} queries, and the model reads {limit}; accepted: fewer"
        )
    model = load_model(inputs.model.path, pick_dtype(config.precision, device), device)
    method = PrefixCompressor(num_vectors=num_vectors, num_blocks=inputs.compressor.facts.num_compressor_blocks)
    compressor = method.compressor(model).eval()
    load_compressor(inputs.compressor, compressor)
    started = time.perf_counter()
    with torch.inference_mode():
        vectors = compressor.compress([ids])[0].cpu()
    metric("condense_seconds", time.perf_counter() - started)
    metric("num_demonstration_tokens", len(ids))
    note(f"{len(ids)} tokens of {len(shown.names)} demonstrations became {num_vectors} vectors")
    context = replace(read_context(inputs.compressor), num_shown=config.num_shown)
    write_prefix(workdir / "content", vectors, shown, context)
    return PrefixArtifact.at(
        workdir / "content",
        PrefixFacts(
            model_fingerprint=inputs.model.fingerprint,
            num_vectors=num_vectors,
            hidden_size=vectors.shape[1],
            vocab_size=inputs.model.facts.vocab_size,
            demonstrations=shown.names,
            num_demonstrations=len(shown.names),
            num_demonstration_tokens=len(ids),
            data_fingerprint=inputs.data.fingerprint,
            compressor=inputs.compressor.fingerprint,
        ),
    )


def _shown(config: CondenseConfig, inputs: CondenseInputs, tokenizer: object) -> tuple[Shown, list[int]]:
    """Return the demonstrations and their tokens, as the compressor learned to read them."""
    rows = [row for row in split_rows(read_rows(inputs.data.path / "rows.jsonl"), "train") if row.question]
    sets = shown_in_turn(rows, config.num_shown, 1)
    if not sets:
        raise ValueError(
            f"num_shown is {config.num_shown}, but the data has {len(rows)} training questions; accepted: at most as many"
        )
    return sets[0], demonstration_ids(sets[0], wording_of(tokenizer))
