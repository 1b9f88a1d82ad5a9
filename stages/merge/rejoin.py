"""Stage `rejoin`: put a language tower that was taken out by `tower:` and cut back into its vision-language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import field_validator

from attar.compressors.measure.same_logits import SAME_KERNELS, difference, probe_ids
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import ModelArtifact, VisionModelArtifact
from attar.registry.artifacts.kinds.kind_facts import VisionModelFacts
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.model.vision_folder import (
    copy_companions_of_pictures,
    load_vision_model,
    outside_tower,
    plain_ids,
    text_logits,
    with_tower,
)
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.ingest.source_line import FORMS, parse_source, source_digest
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import bar, metric, note


class RejoinConfig(StageConfig):
    """Which model the tower belongs to."""

    source: str
    """The vision-language model that the tower was taken from, as `tower:PATH`."""

    @field_validator("source")
    @classmethod
    def _is_a_tower(cls, value: str) -> str:
        source = parse_source(value)
        if source.scheme != "tower":
            raise ValueError(f"source is {value!r}; accepted: {FORMS['tower']}")
        if not source.path.is_dir():
            problem = "is no folder" if source.path.exists() else "does not exist"
            raise ValueError(f"{source.path} {problem}; accepted: {FORMS['tower']} with the path of a folder")
        return value


@dataclass(frozen=True, kw_only=True)
class RejoinInputs:
    """The language tower, cut, healed or merged."""

    model: ModelArtifact


def _forecast(config: RejoinConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model = inputs["model"][0]
    facts: Facts = {name: model[name] for name in ("num_blocks", "vocab_size", "hidden_size") if name in model}
    return Forecast(facts)


@stage("rejoin", version=1, forecast=_forecast, outside=lambda config: source_digest(parse_source(config.source)))
def rejoin(config: RejoinConfig, inputs: RejoinInputs, workdir: Path) -> VisionModelArtifact:
    """Write the whole vision-language model with this language tower; picture tower and projector stay bit for bit.

    Raises ValueError when the tower does not fit, and when what was written is not the tower on text and the original elsewhere.
    """
    folder, content = parse_source(config.source).path, workdir / "content"
    steps = bar("putting the tower back", 3, "steps")
    whole, tower = load_vision_model(folder), load_model(inputs.model.path, "auto")
    ids = plain_ids(whole.config, probe_ids(tower.config.vocab_size))
    expected, originals = text_logits(tower, ids), outside_tower(whole)
    steps.advance()
    rejoined = with_tower(whole, tower)
    rejoined.save_pretrained(content, safe_serialization=True)
    copy_companions_of_pictures(folder, content)
    steps.advance()
    num_blocks = int(tower.config.num_hidden_layers)
    num_parameters = sum(parameter.numel() for parameter in rejoined.parameters())
    del whole, tower, rejoined
    give_back()
    _prove(content, expected, originals, ids)
    steps.advance()
    vocab_size = int(expected.shape[-1])
    facts = VisionModelFacts(num_blocks=num_blocks, num_parameters=num_parameters, vocab_size=vocab_size)
    return VisionModelArtifact.at(content, facts)


def _prove(content: Path, expected: torch.Tensor, originals: Mapping[str, torch.Tensor], ids: torch.Tensor) -> None:
    written = load_vision_model(content)
    others = outside_tower(written)
    changed = [
        name
        for name in {*originals, *others}
        if name not in originals or name not in others or not torch.equal(originals[name], others[name])
    ]
    if changed:
        raise ValueError(f"rejoin: {sorted(changed)[0]} is not the original's in the written {type(written).__name__}")
    error = difference(expected, text_logits(written, ids))
    if not error <= SAME_KERNELS.get(written.dtype, 1e-2):
        raise ValueError(
            f"rejoin: the written {type(written).__name__} speaks otherwise than its tower, {error:.2g} of the largest logit apart"
        )
    metric("proof_logit_error", error)
    note(
        f"proved: {len(originals)} tensors outside the tower are the original's, and on text the whole is its tower to {error:.1e}"
    )
