"""Stage `export`: a plain model as one ONNX graph with a KV cache, accepted only when it writes the same text."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import Field

from compressors.export.graph import export_program
from compressors.export.parity import Parity, measure_parity
from compressors.export.runtime import OnnxRunner
from compressors.measure.runner import TorchRunner
from compressors.self_data.prompts import chat_prompt
from registry.artifact import AdapterArtifact, DatasetArtifact, Facts, ModelArtifact, OnnxArtifact
from stages.contract import Forecast, StageConfig, stage
from stages.guidance_export import export_guided
from stages.model_folder import copy_tokenizer, load_model, load_tokenizer
from stages.onnx_session import GRAPH, open_session
from stages.progress import bar, metric, note
from stages.rows import read_rows
from stages.size_forecast import exported, stored_bytes


class ExportConfig(StageConfig):
    """How much proof the exported graph owes."""

    num_prompts: int = Field(default=4, ge=1)
    """Questions of the data set on which torch and ONNX Runtime are compared."""

    num_new_tokens: int = Field(default=64, ge=1)
    """Greedy tokens compared on each."""

    min_token_agreement: float = Field(default=0.98, ge=0.0, le=1.0)
    """Share of greedy tokens that must agree before the first difference, in [0, 1]; below it the stage fails."""

    max_logit_difference: float = Field(default=1e-2, gt=0.0)
    """Largest absolute difference of any logit; above it the stage fails."""


@dataclass(frozen=True, kw_only=True)
class ExportInputs:
    """The model, the data set whose questions prove the graph, and guidance adapters, which stay: `guidance_scale` is an input then."""

    model: ModelArtifact
    data: DatasetArtifact
    guidance: AdapterArtifact | None = None


def _forecast(config: ExportConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model = inputs["model"][0]
    num_bytes = 4.0 * float(model.get("num_parameters", 0))
    facts = exported(model)
    return Forecast(facts, peak_memory_bytes=4 * num_bytes, disk_bytes=stored_bytes(facts))


@stage("export", version=1, forecast=_forecast)
def export(config: ExportConfig, inputs: ExportInputs, workdir: Path) -> OnnxArtifact:
    """Export to ONNX (float32, external data, tokenizer beside it) and compare it with torch on real prompts.

    Raises ValueError for a family without a cached graph, and when the text or the logits differ.
    """
    if inputs.guidance is not None:
        return export_guided(config, inputs, inputs.guidance, workdir)
    content = workdir / "content"
    model = load_model(inputs.model.path, torch.float32)
    steps = bar("tracing the graph", 2, "steps")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about names of axes that it merges
        program = export_program(model)
    steps.advance()
    program.save(content / GRAPH, external_data=True)
    steps.advance()
    shutil.copy2(inputs.model.path / "config.json", content / "config.json")
    if (inputs.model.path / "generation_config.json").exists():
        shutil.copy2(inputs.model.path / "generation_config.json", content / "generation_config.json")
    copy_tokenizer(inputs.model.path, content)
    del program
    parity = _prove(config, inputs, TorchRunner(model), OnnxRunner(open_session(content)))
    (content / "parity.json").write_text(json.dumps(asdict(parity), indent=1))
    return OnnxArtifact.at(content, **exported(inputs.model.facts), token_agreement=parity.token_agreement)


def _prove(config: ExportConfig, inputs: ExportInputs, reference: TorchRunner, candidate: OnnxRunner) -> Parity:
    tokenizer = load_tokenizer(inputs.model.path)
    rows = [row for row in read_rows(inputs.data.path / "rows.jsonl") if row.question][: config.num_prompts]
    prompts = [chat_prompt(tokenizer, row.question) for row in rows]
    counter = bar("comparing with torch", len(prompts), "prompts")
    parity = measure_parity(
        reference, candidate, prompts, num_new_tokens=config.num_new_tokens, on_prompt=counter.advance
    )
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
