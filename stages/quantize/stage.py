"""Stage `quantize`: the weights of an exported graph in 8 or 4 bits, accepted only within limits measured on held-out text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from attar.compressors.catalogue import build
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.quantize.methods import WEIGHT_METHODS
from attar.registry.artifacts.handles import DatasetArtifact, Facts, OnnxArtifact
from attar.stages.artifacts.dataset.samples import training_samples
from attar.stages.artifacts.model.size_forecast import exported, integer_bytes, stored_bytes
from attar.stages.artifacts.onnx_folder import DATA, copy_companions, disk_bytes, write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.quantize.graph import TABLE, QuantizedGraph, Switches
from attar.stages.quantize.limits import Limits, ask_original, broken_limits, heldout_pairs, measure_quality
from attar.stages.quantize.proof import prove_graph
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import metric, note

RESULT = "quality.json"


class QuantizeConfig(StageConfig):
    """How many bits, how they are chosen, and what may be lost."""

    limits: Limits
    """What the quantized model may lose on held-out text; past it the stage fails and names the costliest nodes."""

    kind: Literal["weights", "dynamic"] = "weights"
    """weights: integers in blocks with their scales. dynamic: by output channel in seven bits, which no processor's sums outgrow, activations
    quantized by tensor as they come."""

    bits: Literal[8, 4] = 8
    """Bits of a weight."""

    head_bits: Literal[8, 4] = 8
    """Bits of embedding and output head; where the two are tied, they stay one tensor."""

    block_size: Literal[16, 32, 64, 128] = 32
    """Input channels that share a scale; smaller where a matrix is not whole blocks."""

    symmetric: bool = False
    """true: no zero points, a little smaller and faster; false: each block's range is used whole."""

    method: str = "error_corrected"
    """How integers are chosen: nearest (the only one of kind dynamic), searched (range by squared error), error_corrected (GPTQ)."""

    params: dict[str, Any] = {}
    """Parameters of the method; for error_corrected: damping."""

    smooth: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Share of the inputs' unevenness over channels that moves into the weights, in [0, 1); 0: none."""

    exclude: list[str] = []
    """Ends of names of products that stay in float32, such as layers.0.mlp.down_proj."""

    twofold: list[str] = []
    """Ends of names of products whose inputs are rounded twice, to 16 bits in all, at one reading of the weights; for lm_head a quarter more time."""

    max_kept: int = Field(default=0, ge=0)
    """Most products that may stay in float32 (in 8 bits where `bits` is 4) because they cost most; 0: none, and none is measured alone."""

    target_kl_nats: float = Field(default=0.0, ge=0.0)
    """KL on calibration text at which no more products are kept, nats a token; 0: half of limits.max_kl_nats."""

    num_samples: int = Field(default=32, ge=1)
    """Calibration texts, of the data's training rows."""

    max_tokens: int = Field(default=256, ge=2)
    """Longest calibration text and held-out continuation, in tokens."""

    num_rank_tokens: int = Field(default=256, ge=2)
    """Calibration tokens on which products are measured alone: a forward pass over them a product."""

    max_rows: int = Field(default=64, ge=0)
    """Held-out rows, and windows of the text, on which the loss is measured; 0: all."""

    @model_validator(mode="before")
    @classmethod
    def _dynamic_rounds_to_the_nearest(cls, given: Any) -> Any:
        return {"method": "nearest", **given} if isinstance(given, dict) and given.get("kind") == "dynamic" else given

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        build(WEIGHT_METHODS, value)
        return value

    @model_validator(mode="after")
    def _fits(self) -> QuantizeConfig:
        build(WEIGHT_METHODS, self.method, self.params)
        if self.kind == "dynamic" and (self.bits != 8 or self.method != "nearest"):
            raise ValueError("kind is 'dynamic': accepted: bits 8, method 'nearest'")
        return self


@dataclass(frozen=True, kw_only=True)
class QuantizeInputs:
    """The float graph, rows to calibrate on (training) and to measure on (held out), and plain text to measure on."""

    model: OnnxArtifact
    data: DatasetArtifact
    text: DatasetArtifact | None = None


def _forecast(config: QuantizeConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model = dict(inputs["model"][0])
    if model.get("quantization", "none") != "none":
        raise ValueError(f"bits is {config.bits}, but the input is quantized already ({model['quantization']})")
    facts = exported(model, _label(config))
    facts["weight_bytes"] = integer_bytes(
        model, config.bits, config.head_bits, config.block_size, is_symmetric=config.symmetric
    )
    num_bytes = 4.0 * float(model.get("num_parameters", 0))
    return Forecast(
        facts, peak_memory_bytes=num_bytes * (4.5 if config.max_kept else 3.0), disk_bytes=stored_bytes(facts)
    )


@stage("quantize", version=4, forecast=_forecast)
def quantize(config: QuantizeConfig, inputs: QuantizeInputs, workdir: Path) -> OnnxArtifact:
    """Quantize an exported graph and compare it with the float one: KL, greedy agreement, perplexity, size, speed.

    Raises ValueError when a limit does not hold, with the products that cost most.
    """
    source, content = inputs.model.path, workdir / "content"
    samples = training_samples(source, inputs.data, config.num_samples, config.max_tokens)
    pairs = heldout_pairs(source, inputs.data, inputs.text, config.max_rows, config.max_tokens)
    original = ask_original(  # first, while nothing else is held: this opens all float weights at once
        OnnxRunner(open_session(source, is_frugal=True)),
        pairs,
        scratch=workdir / "logits",
        vocab_size=int(inputs.model.facts["vocab_size"]),
    )
    give_back()
    quantized = QuantizedGraph(config, source, samples)
    kept = _kept(config, quantized, workdir) if config.max_kept else []
    write_graph(quantized.place(kept), content)
    if config.kind == "weights":  # dynamic products round what they read by nature: their loss is measured, below
        vocab_size = int(inputs.model.facts["vocab_size"])
        prove_graph(quantized, kept, content, workdir / "dequantized", vocab_size)
    quantized.forget()
    copy_companions(source, content)
    runner = OnnxRunner(open_session(content, is_frugal=True))
    quality = measure_quality(runner, original, size_fraction=disk_bytes(content) / disk_bytes(source))
    if broken := broken_limits(config.limits, quality):
        if not config.max_kept:  # only now is it worth a pass a product
            _ranked(config, quantized, workdir)
        worst = ", ".join(f"{one.name} {one.kl_nats:.2g}" for one in quantized.worst()[:3])
        raise ValueError(
            f"the quantized model loses too much: {'; '.join(broken)}; costliest alone, KL in nats: {worst}"
        )
    quantized.write_table(content / TABLE)
    (content / RESULT).write_text(json.dumps(quality.facts() | {"kept": kept}, indent=1))
    facts: Facts = {**exported(inputs.model.facts, _label(config)), **quality.facts(), "num_kept": len(kept)}
    facts["weight_bytes"] = float((content / DATA).stat().st_size)
    return OnnxArtifact.at(content, **facts)


def _ranked(config: QuantizeConfig, quantized: QuantizedGraph, workdir: Path) -> Switches:
    scratch = workdir / "switchboard"
    scratch.mkdir(exist_ok=True)
    return quantized.rank(scratch, config.num_rank_tokens)


def _kept(config: QuantizeConfig, quantized: QuantizedGraph, workdir: Path) -> list[str]:
    switches = _ranked(config, quantized, workdir)
    costs = {name: error.kl_nats for name, error in quantized.errors.items()}
    target = config.target_kl_nats or config.limits.max_kl_nats / 2
    kept = switches.keep(costs, max_loss=target, max_kept=config.max_kept)
    metric("num_kept_nodes", len(kept))
    note(f"kept {'in 8 bits' if config.bits == 4 else 'in float32'}: {', '.join(kept) or 'none'}")
    return kept


def _label(config: QuantizeConfig) -> str:
    return "dynamic int8" if config.kind == "dynamic" else f"int{config.bits} weights"
