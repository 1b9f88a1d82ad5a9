"""Export a model with its guidance adapters as one ONNX graph, proved at several scales."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from attar.compressors.guidance.graph import GuidedGraph, guided_program
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.handles import AdapterArtifact, ModelArtifact, OnnxArtifact
from attar.stages.artifacts.dataset.prompts import row_prompt
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.artifacts.guidance_files import attach_guidance, proven_scales
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.model.size_forecast import exported
from attar.stages.artifacts.onnx_folder import copy_companions, write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.runtime.progress import bar, metric, note

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ScaleParity:
    """Parity at one scale. The largest difference of a prompt's logits; the share of greedy tokens before the first that differs."""

    scale: float
    max_logit_difference: float
    token_agreement: float


def export_guided(config: ExportConfig, inputs: ExportInputs, guidance: AdapterArtifact, workdir: Path) -> OnnxArtifact:
    """Export with `guidance_scale` as an input, float32, tokenizer beside it; at each proven scale torch must say the same.

    Raises ValueError for a family without a cached graph, and when text or logits differ.
    """
    content = workdir / "content"
    content.mkdir(parents=True, exist_ok=True)
    model = load_model(inputs.model.path, torch.float32)
    adapters = attach_guidance(model, guidance, cast(ModelArtifact, inputs.model))
    steps = bar("tracing the guided graph", 2, "steps")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about names of axes that it merges
        program = guided_program(model, adapters)
    steps.advance()
    write_graph(program.model, content)
    steps.advance()
    del program
    copy_companions(inputs.model.path, content)
    graph = GuidedGraph(open_session(content, is_guided=True))
    parities = []
    for scale in proven_scales(adapters):
        with adapters.at(scale):
            parities.append(prove_scale(config, inputs, model, graph, scale))
    (content / "parity.json").write_text(json.dumps([asdict(parity) for parity in parities], indent=1))
    agreement = min(parity.token_agreement for parity in parities)
    return OnnxArtifact.at(content, exported(inputs.model.facts), is_guided=True, token_agreement=agreement)


def prove_scale(
    config: ExportConfig, inputs: ExportInputs, model: PreTrainedModel, graph: GuidedGraph, scale: float
) -> ScaleParity:
    """Compare text and logits of the graph with the model's at one scale. Raises ValueError when they differ."""
    tokenizer = load_tokenizer(inputs.model.path)
    rows = [row for row in read_rows(inputs.data.path / "rows.jsonl") if row.question][: config.num_prompts]
    if not rows:
        raise ValueError("input data: no row has a question to compare the graph on")
    counter = bar(f"comparing with torch at scale {scale:g}", len(rows), "prompts")
    largest, num_agreed = 0.0, 0
    for row in rows:
        prompt = row_prompt(tokenizer, row)
        with torch.inference_mode():
            expected = model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0]
        [text] = decode(TorchRunner(model), [prompt], max_new_tokens=config.num_new_tokens, stop_ids=())
        written, logits = graph.greedy(prompt, scale, config.num_new_tokens)
        # Python's max passes over NaN
        largest = float(torch.maximum(torch.tensor(largest), (logits - expected).abs().max()))
        pairs = zip(text.token_ids, written, strict=True)
        num_agreed += next((index for index, (a, b) in enumerate(pairs) if a != b), config.num_new_tokens)
        counter.advance()
    parity = ScaleParity(scale, largest, num_agreed / (len(rows) * config.num_new_tokens))
    metric("max_logit_difference", largest, step=round(100 * scale))
    summary = (
        f"guidance_scale {scale:g}: max logit difference {largest:.2g}, greedy agreement {parity.token_agreement:.1%}"
    )
    note(summary)
    is_near = largest <= config.max_logit_difference  # False for a difference that is no number
    if not is_near or parity.token_agreement < config.min_token_agreement:
        raise ValueError(
            f"the exported graph is not the model: {summary}; "
            f"accepted: agreement >= {config.min_token_agreement:.0%}, difference <= {config.max_logit_difference:g}"
        )
    return parity
