"""Stage `merge_adapters`: make one adapter of several that were trained on the same base."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from safetensors.torch import load_file, save_file

from attar.compressors.catalogue import build, did_you_mean
from attar.compressors.merge.adapters import ADAPTER_MERGES, AdapterMerge, Factors, merged_updates
from attar.compressors.merge.fold import PREFIX, adapter_pairs
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import AdapterArtifact, ModelArtifact
from attar.registry.artifacts.kinds.kind_facts import AdapterFacts
from attar.stages.artifacts.work_forecast import parameters_of
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.merge.adapter_proof import prove_adapter
from attar.stages.merge.fold_check import check_learned
from attar.stages.merge.sources import adapter_scale
from attar.stages.runtime.progress import metric, note, track

WEIGHTS = "adapter_model.safetensors"
# What finetune's methods leave that is no sum of a low-rank update.
NOT_MERGED = {
    "dora": "is no sum of updates",
    "full": "trained the weights themselves",
    "last_blocks": "trained the weights themselves",
    "quantization_aware": "trained the weights themselves",
    "elastic": "trained the weights themselves",
}


class MergeAdaptersConfig(StageConfig):
    """How the adapters become one."""

    method: str = "concat"
    """concat: the exact weighted sum, ranks added up. svd: the closest of one rank. linear: factors added up, not the sum; its error is told."""

    params: dict[str, Any] = {}
    """Parameters of the method; for svd: rank (0: the largest of the adapters')."""

    weights: list[float] = []
    """Weight of each adapter's update, in their order; empty: equal ones that sum to 1."""

    max_error: float = Field(default=0.0, ge=0.0)
    """Fail when the result misses the weighted sum of a matrix by more than this share of its norm; 0: no limit."""

    @model_validator(mode="after")
    def _known(self) -> MergeAdaptersConfig:
        if self.method not in ADAPTER_MERGES:
            raise ValueError(f"method: unknown method {self.method!r}.{did_you_mean(self.method, ADAPTER_MERGES)}")
        self.build()
        return self

    def build(self) -> AdapterMerge:
        """Return the method with its parameters."""
        return build(ADAPTER_MERGES, self.method, self.params)


@dataclass(frozen=True, kw_only=True)
class MergeAdaptersInputs:
    """Low-rank adapters of one base model, and that model: with it the written adapter is tried, not its file alone."""

    adapters: tuple[AdapterArtifact, ...]
    base: ModelArtifact | None = None


def _forecast(config: MergeAdaptersConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    adapters = inputs["adapters"]
    if len(adapters) < 2:
        raise ValueError(f"adapters: takes 2 or more, not {len(adapters)}")
    if config.weights and len(config.weights) != len(adapters):
        raise ValueError(f"weights has {len(config.weights)} entries for {len(adapters)} adapters")
    for adapter in adapters:
        if adapter.get("method") in NOT_MERGED:
            raise ValueError(
                f"adapters: one of method {adapter['method']!r} {NOT_MERGED[str(adapter['method'])]}; merge the models"
            )
        if adapter.get("expert_rank"):
            raise ValueError(
                f"adapters: one is on experts too (expert_rank {adapter['expert_rank']}), whose factors no method combines; "
                "merge the models"
            )
    facts: dict[str, Any] = {"method": "lora"}
    if "vocab_size" in adapters[0]:
        facts["vocab_size"] = adapters[0]["vocab_size"]
    base = inputs.get("base", ())
    return Forecast(facts, peak_memory_bytes=2.0 * 4.0 * parameters_of(base) if base else 0.0)


@stage("merge_adapters", version=2, forecast=_forecast)
def merge_adapters(config: MergeAdaptersConfig, inputs: MergeAdaptersInputs, workdir: Path) -> AdapterArtifact:
    """Make one low-rank adapter of several of one base, and measure what it misses of their weighted sum.

    Raises ValueError for adapters of different bases, when more than `max_error` of the sum is missed, and when the written adapter is
    not what was made.
    """
    first = inputs.adapters[0]
    for adapter in inputs.adapters:
        check_learned(adapter)
    _forecast(config, {"adapters": tuple(adapter.facts for adapter in inputs.adapters)})
    _refuse_other_bases(inputs)
    weights = config.weights or [1.0 / len(inputs.adapters)] * len(inputs.adapters)
    adapters = [
        (adapter_pairs(load_file(adapter.path / WEIGHTS)), adapter_scale(adapter.path))
        for adapter in track(inputs.adapters, "reading adapters", "adapters")
    ]
    merged, errors = merged_updates(config.build(), adapters, weights)
    worst = max(errors, key=errors.__getitem__)
    metric("max_relative_error", errors[worst])
    note(f"the result misses at most {errors[worst]:.2e} of a matrix's weighted sum, at {worst}")
    if config.max_error and errors[worst] > config.max_error:
        accepted = f"accepted: max_error {config.max_error:g}"
        raise ValueError(f"{worst}: the result misses {errors[worst]:.3g} of the weighted sum; {accepted}")
    rank = _write(merged, [adapter.path for adapter in inputs.adapters], workdir / "content")
    prove_adapter(workdir / "content", merged, inputs.base)
    facts = AdapterFacts(
        method="lora",
        rank=rank,
        base_fingerprint=first.facts.base_fingerprint,
        vocab_size=first.facts.vocab_size,
        max_relative_error=errors[worst],
    )
    return AdapterArtifact.at(workdir / "content", facts)


def _refuse_other_bases(inputs: MergeAdaptersInputs) -> None:
    prints = [adapter.facts.base_fingerprint for adapter in inputs.adapters]
    for other in prints[1:]:
        if other != prints[0]:
            raise ValueError(
                f"the adapters were trained on models {prints[0][:12]} and {other[:12]}: they cannot be merged"
            )
    if inputs.base is not None and inputs.base.fingerprint != prints[0]:
        raise ValueError(
            f"base is model {inputs.base.fingerprint[:12]}, the adapters were trained on {prints[0][:12]}; accepted: that one, or none"
        )


def _write(merged: Mapping[str, Factors], sources: list[Path], content: Path) -> int:
    """Write a PEFT folder and return its rank. The scale lies in the factors, so that alpha equals rank."""
    rank = len(next(iter(merged.values())).down)
    tensors = {}
    for target, update in merged.items():
        stem = f"{PREFIX}{target.removesuffix('.weight')}"
        tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"] = (
            update.down.contiguous(),
            update.up.contiguous(),
        )
    save_file(tensors, content / WEIGHTS, metadata={"format": "pt"})
    configs = [json.loads((source / "adapter_config.json").read_text()) for source in sources]
    config = configs[0] | {"r": rank, "lora_alpha": rank, "use_rslora": False}
    targets = [{name: config.get(name) for name in ("target_modules", "layers_to_transform")} for config in configs]
    if any(_sorted(target) != _sorted(targets[0]) for target in targets):  # say where it sits, matrix by matrix
        config |= {
            "target_modules": [target.removesuffix(".weight") for target in merged],
            "layers_to_transform": None,
        }
    (content / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    return rank


def _sorted(section: Mapping[str, Any]) -> dict[str, Any]:
    return {name: sorted(value) if isinstance(value, list) else value for name, value in section.items()}
