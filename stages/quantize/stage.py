"""Stage `quantize`: the weights of an exported graph in 8 or 4 bits. Accepted only within limits measured on held-out text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import cast

from attar.compressors.export.runtime import OnnxRunner
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import AnyGraph, DatasetArtifact, OnnxArtifact
from attar.registry.artifacts.subjects import CAUSAL, CLASSIFIER, ENCODER, IMAGES, TAGGER, Subject, form_of, subject_of
from attar.stages.artifacts.dataset.samples import training_samples
from attar.stages.artifacts.images.fit import refuse_other_data
from attar.stages.artifacts.model.size_forecast import exported, integer_bytes, stored_bytes
from attar.stages.artifacts.onnx_folder import DATA, copy_companions, disk_bytes, write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.contract import Forecast, stage
from attar.stages.quantize.classifier import quantize_classifier
from attar.stages.quantize.config import WHOLE_KINDS, QuantizeConfig, QuantizeInputs
from attar.stages.quantize.encoder import check_encoder_quantize, quantize_encoder
from attar.stages.quantize.graph import TABLE, QuantizedGraph, Switches
from attar.stages.quantize.image_classifier import check_image_quantize, quantize_image_graph
from attar.stages.quantize.limits import Limits, ask_original, broken_limits, heldout_pairs, measure_quality
from attar.stages.quantize.proof import prove_graph
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import metric, note

RESULT = "quality.json"
# By subject: what a graph's loss is limited in; of others than causal text what is refused, and how they are quantized.
LIMITS = {CAUSAL: "text", ENCODER: "vectors", CLASSIFIER: "classes", TAGGER: "classes", IMAGES: "classes"}
CHECKS = {
    ENCODER: check_encoder_quantize,
    CLASSIFIER: partial(check_encoder_quantize, subject=CLASSIFIER),
    TAGGER: partial(check_encoder_quantize, subject=TAGGER),
    IMAGES: check_image_quantize,
}
RUNS: dict[Subject, Callable[..., AnyGraph]] = {
    ENCODER: quantize_encoder,
    CLASSIFIER: quantize_classifier,
    TAGGER: quantize_classifier,
    IMAGES: quantize_image_graph,
}


def _forecast(config: QuantizeConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model = dict(inputs["model"][0])
    if model.get("quantization", "none") != "none":
        raise ValueError(
            f"weights.bits is {config.weights.bits}, but the input is quantized already ({model['quantization']})"
        )
    refuse_other_data(model, inputs["data"])
    _refuse_graph(config, model)
    subject = subject_of(model)
    if config.limits.kind != LIMITS[subject]:
        raise ValueError(
            f"limits.kind is {config.limits.kind!r}, but the input is the graph of {subject.words}; accepted: {LIMITS[subject]}"
        )
    if config.weights.kind == "static" and subject is not IMAGES:
        raise ValueError(
            f"weights.kind is 'static', but the input is the graph of {subject.words}; accepted: weights, dynamic"
        )
    CHECKS.get(subject, lambda config: None)(config)
    facts = {**exported(model, _label(config)), **form_of(model)}
    facts["weight_bytes"] = integer_bytes(
        model,
        config.weights.bits,
        config.weights.head_bits,
        config.weights.block_size,
        is_symmetric=config.weights.symmetric,
    )
    num_bytes = 4.0 * float(model.get("num_parameters", 0))
    return Forecast(
        facts, peak_memory_bytes=num_bytes * (4.5 if config.max_kept else 3.0), disk_bytes=stored_bytes(facts)
    )


def _refuse_graph(config: QuantizeConfig, model: Facts) -> None:
    """Raise ValueError for a graph of ONNX' own operators, where integers would be nodes of another domain, and for one with branches.

    And for one that takes vectors, which calibration does not give it.
    """
    if "prefix_model" in model:
        raise ValueError(
            f"weights.bits is {config.weights.bits}, but the input's graph takes a prefix, which calibration does not give it; accepted: a "
            "graph of export without format.takes_prefix"
        )
    if model.get("early_exits"):
        raise ValueError(
            "the input's graph may end before its last block, and its later blocks lie in branches, which are not read; accepted: a graph of "
            "export without format.early"
        )
    if "precision" in model:
        raise ValueError(
            f"weights.bits is {config.weights.bits}, but the input's graph is in {model['precision']}, rounded already; accepted: a graph of "
            "export with format.precision float32"
        )
    if model.get("operators") == "standard":
        raise ValueError(
            f"weights.bits is {config.weights.bits}, but the input's graph has ONNX' own operators alone, and products with weights in 8 or "
            "4 bits are onnxruntime's own (com.microsoft); accepted: a graph of export with format.operators fused"
        )


@stage("quantize", version=6, forecast=_forecast, follows="model")
def quantize(config: QuantizeConfig, inputs: QuantizeInputs, workdir: Path) -> AnyGraph:
    """Quantize an exported graph and compare it with the float one: KL, greedy agreement, perplexity, size, speed.

    An encoder's is compared by the cosine of its vectors, a classifier's by its distributions over classes, a tagger's over tags.

    Raises ValueError when a limit does not hold, with the products that cost most.
    """
    _refuse_graph(config, inputs.model.facts)
    source, content = inputs.model.path, workdir / "content"
    if (run := RUNS.get(inputs.model.subject)) is not None:
        return run(config, inputs, content, _label(config))
    data = cast(DatasetArtifact, inputs.data)
    samples = training_samples(source, data, config.measured.num_samples, config.measured.max_tokens)
    pairs = heldout_pairs(source, data, inputs.text, config.measured.max_rows, config.measured.max_tokens)
    vocab_size, limits = cast(OnnxArtifact, inputs.model).facts.vocab_size, cast(Limits, config.limits)

    def reopen() -> OnnxRunner:
        return OnnxRunner(open_session(source, is_frugal=True))

    # first, while nothing else is held: this opens all float weights at once
    original = ask_original(reopen(), pairs, scratch=workdir / "logits", vocab_size=vocab_size, reopen=reopen)
    give_back()
    quantized = QuantizedGraph(config, source, samples)
    float_nodes = _float_nodes(config, quantized, workdir) if config.max_kept else []
    write_graph(quantized.with_floats(float_nodes), content)
    prove_graph(quantized, float_nodes, content, workdir / "dequantized", vocab_size)
    quantized.forget()
    copy_companions(source, content)
    runner = OnnxRunner(open_session(content, is_frugal=True))
    quality = measure_quality(runner, original, size_fraction=disk_bytes(content) / disk_bytes(source))
    if broken := broken_limits(limits, quality):
        if not config.max_kept:  # only now is it worth a pass a product
            _ranked(config, quantized, workdir)
        worst = ", ".join(f"{block.name} {block.kl_nats:.2g}" for block in quantized.worst()[:3])
        raise ValueError(
            f"the quantized model loses too much: {'; '.join(broken)}; costliest alone, KL in nats: {worst}"
        )
    quantized.write_table(content / TABLE)
    (content / RESULT).write_text(json.dumps(quality.facts() | {"kept": float_nodes}, indent=1))
    held = {"num_kept": len(float_nodes), "weight_bytes": float((content / DATA).stat().st_size)}
    return OnnxArtifact.at(content, {**exported(inputs.model.facts, _label(config)), **quality.facts(), **held})


def _ranked(config: QuantizeConfig, quantized: QuantizedGraph, workdir: Path) -> Switches:
    scratch = workdir / "switchboard"
    scratch.mkdir(exist_ok=True)
    return quantized.rank(scratch, config.measured.num_rank_tokens)


def _float_nodes(config: QuantizeConfig, quantized: QuantizedGraph, workdir: Path) -> list[str]:
    switches = _ranked(config, quantized, workdir)
    costs = {name: error.kl_nats for name, error in quantized.errors.items()}
    target = config.target_kl_nats or cast(Limits, config.limits).max_kl_nats / 2
    float_nodes = switches.keep(costs, max_loss=target, max_kept=config.max_kept)
    metric("num_kept_nodes", len(float_nodes))
    note(f"kept {'in 8 bits' if config.weights.bits == 4 else 'in float32'}: {', '.join(float_nodes) or 'none'}")
    return float_nodes


def _label(config: QuantizeConfig) -> str:
    if config.weights.kind in WHOLE_KINDS:
        return f"{config.weights.kind} int8"
    return f"int{config.weights.bits} weights"
