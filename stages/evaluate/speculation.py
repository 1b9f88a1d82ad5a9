"""What a model is worth as a draft for the original: measured by `evaluate` where it is given the original."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from attar.compressors.data.prompts import stop_token_ids
from attar.compressors.measure.speculative import Speculation, measure_speculation
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import ModelArtifact
from attar.stages.artifacts.dataset.prompts import row_prompt
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.contract import check_vocabulary
from attar.stages.evaluate.config import EvaluateConfig
from attar.stages.runtime.progress import bar, note

if TYPE_CHECKING:
    import transformers


def check_draft(inputs: Mapping[str, tuple[Facts, ...]]) -> None:
    """Raise ValueError when the model cannot draft for the original, or there is no question to draft answers to."""
    model, original = inputs["model"][0], inputs["original"][0]
    if model.get("format") == "onnx":
        raise ValueError(
            "original: an ONNX graph does not draft in transformers; evaluate the model it was exported from"
        )
    if not inputs.get("tasks"):
        raise ValueError("original: drafting is measured on questions; give the input tasks")
    check_vocabulary(model, original, "original")


def speculation(
    config: EvaluateConfig, draft: transformers.PreTrainedModel, original: ModelArtifact, rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """Let `draft` write ahead for the original, in the same dtype, and return one entry a draft length.

    In float32 the texts must be the original's own, token for token; else raises ValueError. In bfloat16 a pass over several
    tokens rounds otherwise than one over a single token, so near ties may fall otherwise: texts that differ are counted.
    """
    from transformers import GenerationConfig  # a second that a plan need not wait for

    target = load_model(original.path, draft.dtype, draft.device)
    tokenizer = load_tokenizer(original.path)
    chosen = rows[: config.drafts.num_prompts]
    counter = bar("drafting for the original", 2 * len(chosen) * len(config.drafts.lengths), "texts")
    has_generation_config = (original.path / "generation_config.json").exists()
    generation_config = GenerationConfig.from_pretrained(original.path) if has_generation_config else None
    runs = measure_speculation(
        target,
        draft,
        [row_prompt(tokenizer, row) for row in chosen],
        draft_lengths=config.drafts.lengths,
        max_new_tokens=config.max_new_tokens,
        stop_ids=stop_token_ids(tokenizer, generation_config),
        on_text=counter.advance,
    )
    for run in runs:
        if run.differences and draft.dtype == torch.float32:
            raise ValueError(_unfaithful(run))
    entries = [_entry(run, draft.dtype) for run in runs]
    best = best_draft(entries)
    verdict = "a gain" if best["draft_gain"] > 1 else "no gain on this machine"
    note(
        f"as a draft of {best['draft_length']:.0f}: {best['draft_acceptance']:.0%} accepted, "
        f"{best['draft_tokens_per_step']:.2f} tokens a step, {best['draft_gain']:.2f} times as fast: {verdict}"
    )
    return entries


def best_draft(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the headline numbers of the draft length with the largest gain."""
    best = max(entries, key=lambda entry: entry["gain"])
    return {
        "draft_length": float(best["draft_length"]),
        "draft_acceptance": best["acceptance_fraction"],
        "draft_tokens_per_step": best["tokens_per_step"],
        "draft_gain": best["gain"],
    }


def _entry(run: Speculation, dtype: torch.dtype) -> dict[str, Any]:
    numbers = {name: getattr(run, name) for name in ("acceptance_fraction", "tokens_per_step", "gain")}
    texts = {"num_different_texts": len(run.differences), "dtype": str(dtype).removeprefix("torch.")}
    return {**dataclasses.asdict(run), **numbers, **texts}


def _unfaithful(run: Speculation) -> str:
    first = run.differences[0]
    return (
        f"drafting {run.draft_length} tokens changed {len(run.differences)} of {run.num_prompts} texts: question "
        f"{first.prompt_index} first differs at token {first.token_index}, where the original prefers its own by "
        f"{first.margin_nats:.2g} nats; assisted text must be the original's own"
    )
