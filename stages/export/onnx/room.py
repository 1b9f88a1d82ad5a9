"""The ONNX form of a plain model: one graph with a KV cache, compared with torch on real prompts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from attar.compressors.export.parity import DecodedPrompt, listen_to
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import OnnxArtifact
from attar.stages.artifacts.model.expert_facts import float_fraction
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.model.size_forecast import exported, stored_bytes
from attar.stages.artifacts.onnx_folder import copy_companions, write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.contract import Forecast
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.formats.onnx import OnnxFormat
from attar.stages.export.onnx.behind import behind_vectors, prove_behind
from attar.stages.export.onnx.guided import export_guided
from attar.stages.export.onnx.rounded import export_rounded, operator_facts, rounded_facts, traced_graph
from attar.stages.export.proof.parity import prove_parity
from attar.stages.export.proof.prompts import proof_prompts
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import bar


def forecast_onnx(form: OnnxFormat, model: Facts) -> Forecast:
    """Return what a graph will be and take. Raises ValueError for experts in standard operators."""
    num_bytes = 4.0 * float(model.get("num_parameters", 0))
    if form.operators == "standard":
        refuse_experts(model, "format.operators is 'standard'", "fused")
        if form.takes_prefix:
            raise ValueError("format.takes_prefix is true, but format.operators is 'standard'; accepted: fused")
    facts = {**exported(model), **operator_facts(form), **rounded_facts(form)}
    facts |= {"prefix_model": ""} if form.takes_prefix else {}
    return Forecast(facts, peak_memory_bytes=2.5 * num_bytes, disk_bytes=stored_bytes(facts))


def export_onnx(form: OnnxFormat, config: ExportConfig, inputs: ExportInputs, workdir: Path) -> OnnxArtifact:
    """Write the graph and have onnxruntime write what torch writes; of one in fewer bits see `export_rounded`. Raises ValueError otherwise."""
    if inputs.guidance is not None:
        if form.takes_prefix:
            raise ValueError("format.takes_prefix is true, but the node has the input guidance; accepted: either")
        if form.operators == "standard":
            raise ValueError("format.operators is 'standard', which has no input for guidance_scale; accepted: fused")
        return export_guided(config, inputs, inputs.guidance, workdir)
    if form.is_rounded:
        return export_rounded(form, config, inputs, workdir)
    content = workdir / "content"
    prompts = proof_prompts(inputs, config.num_prompts)  # first: without a tokenizer nothing is traced
    write_graph(traced_graph(form, load_model(inputs.model.path, torch.float32)), content)
    copy_companions(inputs.model.path, content, is_in_place=form.operators == "fused")
    give_back()  # the torch model: with the session's own weights it would be twice the memory
    answers, num_bytes = _listen(config, content, prompts, workdir / "said")
    behind = behind_vectors(config, content, prompts, workdir / "said behind") if form.takes_prefix else None
    give_back()  # the session's, before the torch model comes again
    model = TorchRunner(load_model(inputs.model.path, torch.float32))
    parity = prove_parity(
        config,
        answers,
        model,
        reading="onnxruntime runs the graph",
        refusal="the exported graph is not the model",
    )
    proved = {} if behind is None else {"behind_vectors": asdict(prove_behind(config, behind, model))}
    (content / "parity.json").write_text(json.dumps({**asdict(parity), **proved}, indent=1))
    facts = {**exported(inputs.model.facts), **operator_facts(form), "cache_bytes_per_token": num_bytes}
    facts |= {"prefix_model": inputs.model.fingerprint} if form.takes_prefix else {}
    return OnnxArtifact.at(content, facts, token_agreement=parity.token_agreement)


def refuse_experts(model: Facts, field: str, accepted: str) -> None:
    """Raise ValueError for a model with fused experts, whose node is onnxruntime's own."""
    if float_fraction(model):
        raise ValueError(
            f"{field}, but the model has experts, which are multiplied by onnxruntime's own com.microsoft.MoE; accepted: {accepted}"
        )


def _listen(
    config: ExportConfig, content: Path, prompts: list[list[int]], scratch: Path
) -> tuple[list[DecodedPrompt], int]:
    """Return what the graph says, and the bytes of a token in its cache."""
    counter = bar("writing with the graph", len(prompts), "prompts")
    graph = OnnxRunner(open_session(content, is_frugal=True))
    answers = listen_to(graph, prompts, scratch, num_new_tokens=config.num_new_tokens, on_prompt=counter.advance)
    return answers, graph.cache_bytes_per_token
