"""A graph in 16 bits, or with a cache in 8. Made of the float32 graph, and what that costs beside torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.measure.same_logits import OTHER_CODES, OTHER_ORDER, decoded_difference
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, OnnxArtifact
from attar.stages.artifacts.dataset.samples import training_samples
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.model.size_forecast import exported
from attar.stages.artifacts.onnx_folder import copy_companions, read_graph, read_structure, write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.formats.onnx import IntegerCache, OnnxFormat
from attar.stages.export.proof.prompts import proof_prompts
from attar.stages.export.proof.rounding import FloatAnswers, measure_rounding, record_answers
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import bar, metric, note

if TYPE_CHECKING:
    import onnx_ir as ir  # in an extra

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# How much further from torch than a graph in float32 one may be whose results are rounded to 11 or to 8 bits each.
ALLOWANCE = {"float32": 1.0, "float16": 40.0, "bfloat16": 320.0}


def rounded_facts(form: OnnxFormat) -> dict[str, Any]:
    """Return the facts by which later stages know a graph's precision and cache; none for float32."""
    precision = {"precision": form.precision} if form.precision != "float32" else {}
    return precision | ({"cache": form.cache.kind} if form.cache.kind != "float" else {})


def in_precision(form: OnnxFormat, graph: ir.Model) -> ir.Model:
    """Return a float32 graph in the format's precision, changed in place."""
    from attar.compressors.quantize.halves import to_halves  # its library is in an extra

    if form.precision != "float32":
        to_halves(graph, form.precision)
    return graph


def proof_session(content: Path, form: OnnxFormat) -> Any:
    """Open a written graph to see what it says. One in 16 bits computes in float32 and rounds each result to them, as a GPU does.

    The CPU has no products in 16 bits: of bfloat16 it refuses the graph, of float16 it leaves the roundings out, and no overflow is seen.
    """
    from attar.compressors.quantize.halves import rounded_results  # its library is in an extra

    if form.precision == "float32":
        return open_session(content, is_frugal=True)
    import onnx_ir as ir  # in an extra

    graph = read_structure(content)
    rounded_results(graph)
    return open_session(content, graph=ir.to_proto(graph).SerializeToString(), is_frugal=True)


def export_rounded(form: OnnxFormat, config: ExportConfig, inputs: ExportInputs, workdir: Path) -> OnnxArtifact:
    """Write the graph and hold what it costs to the limit: KL from torch in float32, over torch's own answers.

    Written over its cache the graph must say what it says in one pass. Raises ValueError where it does not, or past the limit.
    """
    source, content = inputs.model.path, workdir / "content"
    prompts = proof_prompts(inputs, config.num_prompts)
    model = load_model(source, torch.float32)
    answers = record_answers(TorchRunner(model), prompts, config.num_new_tokens, workdir / "logits")
    graph = traced_graph(form, model)
    if form.cache.kind == "int8":
        graph = _cached_in_codes(form.cache, graph, inputs, workdir / "float")
    write_graph(in_precision(form, graph), content)
    cache = form.precision if form.cache.kind == "float" else form.cache.kind
    copy_companions(source, content, is_in_place=form.operators == "fused", cache=cache)
    del model, graph
    give_back()  # with the session's own weights it would be twice the memory
    facts = _proved(form, content, answers, cast(ModelArtifact, inputs.model).facts.vocab_size)
    return OnnxArtifact.at(
        content, {**exported(inputs.model.facts), **operator_facts(form), **rounded_facts(form), **facts}
    )


def operator_facts(form: OnnxFormat) -> dict[str, str]:
    """Return the fact that tells a graph of ONNX' own operators; none for the usual graph."""
    return {"operators": form.operators} if form.operators == "standard" else {}


def traced_graph(form: OnnxFormat, model: Any) -> ir.Model:
    """Return the graph of a model in float32, its weights still the model's."""
    from attar.compressors.export.graph import export_graph  # its libraries are in an extra

    steps = bar("tracing the graph", 1, "steps")
    graph = export_graph(model, form.opset, form.operators, takes_prefix=form.takes_prefix)
    steps.advance()
    return graph


def _cached_in_codes(cache: IntegerCache, graph: ir.Model, inputs: ExportInputs, scratch: Path) -> ir.Model:
    """Return the graph with keys and values in 8 bits, on scales that the float graph's own cache gave on training rows."""
    from attar.compressors.quantize.cache_codes import cache_in_codes, largest_states, refuse_states  # as above

    refuse_states(graph.graph)
    data = cast(DatasetArtifact, inputs.data)  # of texts, which the model writes
    samples = training_samples(inputs.model.path, data, cache.num_samples, cache.max_tokens)
    if not samples:
        raise ValueError("input data: no training row to measure keys and values on")
    scratch.mkdir(exist_ok=True)
    write_graph(graph, scratch)
    counter = bar("measuring keys and values", len(samples), "texts")
    runner = OnnxRunner(open_session(scratch, is_frugal=True))
    largest = largest_states(runner, [past for past, _ in runner.ports], samples, on_sample=counter.advance)
    coded = read_graph(scratch)
    cache_in_codes(coded, largest)
    return coded


def _proved(form: OnnxFormat, content: Path, answers: FloatAnswers, vocab_size: int) -> dict[str, Any]:
    """Prove the written graph and return what was seen, by the names of facts."""
    # as it runs here; of bfloat16, which does not, as it would on a GPU
    is_plain = form.precision != "bfloat16"
    runner = OnnxRunner(open_session(content, is_frugal=True) if is_plain else proof_session(content, form))
    allowed = OTHER_CODES if form.cache.kind == "int8" else OTHER_ORDER[FLOATS[form.precision]]
    apart = decoded_difference(runner, vocab_size)
    metric("proof_cache_error", apart)
    metric("cache_bytes_per_token", runner.cache_bytes_per_token)
    if not apart <= allowed:
        raise ValueError(
            f"the exported graph decodes otherwise over its cache than in one pass, {apart:.2g} of the largest logit apart (allowed {allowed:g})"
        )
    note(f"the graph over its cache is itself in one pass to {apart:.1e} of the largest logit")
    facts: dict[str, Any] = {"cache_bytes_per_token": runner.cache_bytes_per_token}
    if form.precision == "float16":
        del runner
        give_back()
        runner = OnnxRunner(proof_session(content, form))
    words = [form.precision, *(["an int8 cache"] if form.cache.kind == "int8" else [])]
    rounding = measure_rounding(runner, answers, weights=" with ".join(words), max_kl_nats=form.max_kl_nats)
    (content / "parity.json").write_text(json.dumps({**asdict(rounding), "cache_difference": apart}, indent=1))
    return facts | asdict(rounding)
