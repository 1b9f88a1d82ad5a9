"""Prune an encoder or a classifier of texts. What is left loads like any other, with the same pooling or head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attar.compressors.models.blocks import decoder_blocks, remove_blocks
from attar.compressors.models.bypass import handing_on
from attar.compressors.models.skeleton import check_cut
from attar.registry.artifacts.facts import several
from attar.registry.artifacts.handles import AnyModel
from attar.registry.artifacts.subjects import ENCODER, Subject
from attar.stages.artifacts.encoder.proof import check_kept, probe_vectors, prove_encoder
from attar.stages.artifacts.text_models import TEXT_MODELS, kept_facts
from attar.stages.prune.config import PruneConfig
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.progress import bar, note


def check_whole_prune(config: PruneConfig, subject: Subject = ENCODER) -> None:
    """Raise ValueError for a repair, a plan or a budget that knows causal models alone."""
    if config.plan is not None or config.patch.kind != "none" or config.in_memory == "block":
        given = "plan" if config.plan is not None else "patch" if config.patch.kind != "none" else "in_memory"
        raise ValueError(
            f"{given} is for causal language models, and the model is {subject.words}; accepted: num_blocks, blocks or keep_fraction, without a patch"
        )
    if others := sorted(set(config.keep_fraction) - {"blocks", "parameters"}):
        raise ValueError(
            f"keep_fraction.{others[0]} is counted a decoded token; accepted for {subject.words}: blocks, parameters"
        )


def prune_encoder(model: AnyModel, removed: Sequence[int], content: Path) -> Any:
    """Remove blocks of a model that reads whole texts. Raises ValueError when its config cannot say what is left, or when the proof fails.

    What is left must first give the rows of the kept blocks in the whole model, and give them again when it is loaded as written.
    """
    steps = bar("pruning", 3, "steps")
    device, models = pick_device(), TEXT_MODELS[model.subject]
    encoder = models.load(model.path, "auto", device)
    check_cut(encoder.model, removed)  # before any weight is computed
    steps.advance()
    with handing_on(encoder.model, removed):
        expected = probe_vectors(encoder, "prune")
    remove_blocks(encoder.model, removed)
    check_kept(encoder, expected, "prune")
    note(f"removed blocks {', '.join(map(str, removed))}; {len(decoder_blocks(encoder.model))} are left")
    steps.advance()
    artifact = models.save(encoder, content, model.path)
    steps.advance()
    del encoder
    prove_encoder(content, expected, "prune", device, models.load)
    exits = tuple(depth for depth in several(model.facts, "exits") if depth <= min(removed))  # as they were
    facts = {"removed_blocks": tuple(removed), **kept_facts(model), **({"exits": exits} if exits else {})}
    return type(model).at(content, artifact.facts | facts)
