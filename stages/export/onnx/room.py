"""The ONNX form of a plain model: one graph with a KV cache, compared with torch on real prompts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from attar.compressors.export.parity import DecodedPrompt, Parity, listen_to, measure_parity
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.handles import Facts, OnnxArtifact
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.model.size_forecast import exported, stored_bytes
from attar.stages.artifacts.onnx_folder import copy_companions, write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.contract import Forecast
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.formats.onnx import OnnxFormat
from attar.stages.export.onnx.guided import export_guided
from attar.stages.export.proof_prompts import proof_prompts
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import bar, metric, note


def forecast_onnx(form: OnnxFormat, model: Facts) -> Forecast:
    """Return what a graph will be and take."""
    num_bytes = 4.0 * float(model.get("num_parameters", 0))
    facts = exported(model)
    return Forecast(facts, peak_memory_bytes=2.5 * num_bytes, disk_bytes=stored_bytes(facts))


def export_onnx(form: OnnxFormat, config: ExportConfig, inputs: ExportInputs, workdir: Path) -> OnnxArtifact:
    """Write the graph, float32, and have onnxruntime write what torch writes. Raises ValueError where they differ."""
    if inputs.guidance is not None:
        return export_guided(config, inputs, inputs.guidance, workdir)
    content = workdir / "content"
    prompts = proof_prompts(inputs, config.num_prompts)  # first: without a tokenizer nothing is traced
    _write(form, inputs, content)
    copy_companions(inputs.model.path, content)
    give_back()  # the torch model: with the session's own weights it would be twice the memory
    answers = _listen(config, content, prompts, workdir / "said")
    give_back()  # the session's, before the torch model comes again
    parity = _prove(config, answers, TorchRunner(load_model(inputs.model.path, torch.float32)))
    (content / "parity.json").write_text(json.dumps(asdict(parity), indent=1))
    return OnnxArtifact.at(content, exported(inputs.model.facts), token_agreement=parity.token_agreement)


def _write(form: OnnxFormat, inputs: ExportInputs, content: Path) -> None:
    from attar.compressors.export.graph import export_graph  # its libraries are in an extra

    model = load_model(inputs.model.path, torch.float32)
    steps = bar("tracing the graph", 1, "steps")
    graph = export_graph(model, form.opset)
    steps.advance()
    write_graph(graph, content)


def _listen(config: ExportConfig, content: Path, prompts: list[list[int]], scratch: Path) -> list[DecodedPrompt]:
    counter = bar("writing with the graph", len(prompts), "prompts")
    graph = OnnxRunner(open_session(content, is_frugal=True))
    return listen_to(graph, prompts, scratch, num_new_tokens=config.num_new_tokens, on_prompt=counter.advance)


def _prove(config: ExportConfig, answers: list[DecodedPrompt], original: TorchRunner) -> Parity:
    counter = bar("comparing with torch", len(answers), "prompts")
    parity = measure_parity(answers, original, on_prompt=counter.advance)
    for name in ("max_logit_difference", "mean_logit_difference", "token_agreement"):
        metric(name, getattr(parity, name))
    summary = f"max logit difference {parity.max_logit_difference:.2g}, greedy agreement {parity.token_agreement:.1%}"
    note(f"{summary} over {parity.num_prompts} prompts")
    if parity.token_agreement < config.min_token_agreement or parity.max_logit_difference > config.max_logit_difference:
        raise ValueError(
            f"the exported graph is not the model: {summary}; "
            f"accepted: agreement >= {config.min_token_agreement:.0%}, difference <= {config.max_logit_difference:g}"
        )
    return parity
