"""Prune an encoder: remove blocks, leaving one that sentence-transformers loads like any other, with the same pooling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attar.compressors.models.blocks import decoder_blocks, remove_blocks
from attar.compressors.models.bypass import handing_on
from attar.compressors.models.skeleton import check_cut
from attar.registry.artifacts.handles import EncoderArtifact, ModelArtifact
from attar.stages.artifacts.encoder.folder import load_encoder, save_encoder
from attar.stages.artifacts.encoder.modules_file import read_form
from attar.stages.artifacts.encoder.proof import check_kept, probe_vectors, prove_encoder
from attar.stages.prune.config import PruneConfig
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.progress import bar, note


def check_encoder_prune(config: PruneConfig) -> None:
    """Raise ValueError for a repair, a plan or a budget that knows causal models alone."""
    if config.plan is not None or config.patch.kind != "none" or config.in_memory == "block":
        given = "plan" if config.plan is not None else "patch" if config.patch.kind != "none" else "in_memory"
        raise ValueError(
            f"{given} is for causal language models, and the model is an encoder; accepted: num_blocks, blocks or keep_fraction, without a patch"
        )
    if others := sorted(set(config.keep_fraction) - {"blocks", "parameters"}):
        raise ValueError(
            f"keep_fraction.{others[0]} is counted a decoded token; accepted for an encoder: blocks, parameters"
        )


def prune_encoder(model: ModelArtifact | EncoderArtifact, removed: Sequence[int], content: Path) -> EncoderArtifact:
    """Remove blocks of an encoder. Raises ValueError when its family's config cannot say what is left, or when the proof fails.

    What is left must first give the vectors of the kept blocks in the whole encoder, and give them again when it is loaded as written.
    """
    steps = bar("pruning", 3, "steps")
    device, form = pick_device(), read_form(model.path)
    assert form is not None, "an encoder's folder says its form"
    encoder = load_encoder(model.path, "auto", device)
    check_cut(encoder.model, removed)  # before any weight is computed
    steps.advance()
    with handing_on(encoder.model, removed):
        expected = probe_vectors(encoder, "prune")
    remove_blocks(encoder.model, removed)
    check_kept(encoder, expected, "prune")
    note(f"removed blocks {', '.join(map(str, removed))}; {len(decoder_blocks(encoder.model))} are left")
    steps.advance()
    artifact = save_encoder(encoder, content, form, tokenizer_from=model.path)
    steps.advance()
    del encoder
    prove_encoder(content, expected, "prune", device)
    carried = {name: model.facts[name] for name in ("license", "num_tokens_without_row") if name in model.facts}
    return EncoderArtifact.at(content, artifact.facts | {"removed_blocks": tuple(removed), **carried})
