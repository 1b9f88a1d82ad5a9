"""The OpenVINO form of a model: traced in standard operators, converted, opened by OpenVINO and by OpenVINO GenAI beside torch."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attar.compressors.export.parity import listen_to
from attar.compressors.measure.cost import timer_of
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import OpenVinoArtifact
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.model.size_forecast import stored_bytes
from attar.stages.artifacts.model.turn_end import all_ends
from attar.stages.artifacts.onnx_folder import write_graph
from attar.stages.artifacts.onnx_session import GRAPH
from attar.stages.contract import Forecast
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.formats.openvino import OpenVinoFormat
from attar.stages.export.onnx.room import refuse_experts
from attar.stages.export.openvino.companions import write_companions
from attar.stages.export.openvino.matrices import round_matrices
from attar.stages.export.openvino.representation import MODEL, write_representation
from attar.stages.export.openvino.runner import open_folder
from attar.stages.export.proof.parity import prove_parity
from attar.stages.export.proof.prompts import proof_prompts
from attar.stages.export.proof.rounding import FloatAnswers, measure_rounding, record_answers
from attar.stages.export.proof.runtimes import OPENVINO
from attar.stages.export.proof.shape import shape_of, weight_facts
from attar.stages.export.proof.tokens import prove_by_runtimes
from attar.stages.quantize.limits import decode_seconds
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import bar

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKAGES = ("openvino", "openvino_tokenizers", "onnx_ir")
INSTALL = "pip install 'attar[openvino]'"
PROOF = "proof.json"
BITS = {"f32": 32, "f16": 16, "int8": 8}
# Norms as several nodes: the conversion knows them in any of its versions, and joins them by itself.
OPSET = 20


def forecast_openvino(form: OpenVinoFormat, model: Facts) -> Forecast:
    """Return what the folder will be and take. Raises ValueError without its packages and for experts."""
    refuse_experts(model, "format.kind is 'openvino'", "models without experts")
    _refuse_no_package()
    num_parameters = float(model.get("num_parameters", 0))
    num_bytes = num_parameters * BITS[form.weights] / 8
    facts = {**shape_of(model), "format": "openvino", "quantization": form.weights, "weight_bytes": num_bytes}
    # the float32 model, its graph on disk, and the runtime's own weights
    return Forecast(facts, peak_memory_bytes=9.0 * num_parameters, disk_bytes=stored_bytes(facts))


def export_openvino(
    form: OpenVinoFormat, config: ExportConfig, inputs: ExportInputs, workdir: Path
) -> OpenVinoArtifact:
    """Write the folder, and have OpenVINO say and write what torch does with the same rounded weights.

    Raises ValueError for a family without a graph of standard operators, a tokenizer that OpenVINO cannot say, and other text or logits.
    """
    _refuse_no_package()
    source, content = inputs.model.path, workdir / "content"
    content.mkdir(parents=True, exist_ok=True)
    prompts = proof_prompts(inputs, config.num_prompts)
    write_companions(source, content)  # first: without a tokenizer nothing is traced
    model = load_model(source, torch.float32)
    answers, num_matrices = None, 0
    if form.weights != "f32":
        answers = record_answers(TorchRunner(model), prompts, config.num_new_tokens, workdir / "logits")
        num_matrices = round_matrices(model, form.weights)
    _write(model, form, num_matrices, workdir / "graph", content)
    facts = _proved(form, config, model, answers, content, prompts, workdir)
    (content / PROOF).write_text(json.dumps(facts, indent=1))
    sizes = weight_facts((content / MODEL).with_suffix(".bin").stat().st_size, inputs.model.facts.num_parameters)
    known = {"format": form.kind, "quantization": form.weights, "architecture": model.config.model_type}
    return OpenVinoArtifact.at(content, {**shape_of(inputs.model.facts), **known, **sizes, **facts})


def _refuse_no_package() -> None:
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise ValueError(f"format.kind is 'openvino', which needs the package {missing[0]}: {INSTALL}")


def _write(model: PreTrainedModel, form: OpenVinoFormat, num_matrices: int, scratch: Path, content: Path) -> None:
    from attar.compressors.export.graph import export_graph  # its libraries are in an extra

    scratch.mkdir(exist_ok=True)
    steps = bar("tracing the graph", 2, "steps")
    write_graph(export_graph(model, OPSET, "standard"), scratch)
    steps.advance()
    write_representation(scratch / GRAPH, form.weights, num_matrices, content)
    steps.advance()
    give_back()


def _proved(
    form: OpenVinoFormat,
    config: ExportConfig,
    model: PreTrainedModel,
    answers: FloatAnswers | None,
    content: Path,
    prompts: list[list[int]],
    workdir: Path,
) -> dict[str, Any]:
    """Prove the folder and return what was seen, by the names of facts."""
    runner, reference = open_folder(content), TorchRunner(model)
    counter = bar("writing with OpenVINO", len(prompts), "prompts")
    heard = listen_to(
        runner, prompts, workdir / "heard", num_new_tokens=config.num_new_tokens, on_prompt=counter.advance
    )
    parity = prove_parity(
        config, heard, reference, reading="OpenVINO runs the folder", refusal="OpenVINO's folder is not the model"
    )
    facts: dict[str, Any] = {
        "token_agreement": parity.token_agreement,
        "max_logit_difference": parity.max_logit_difference,
    }
    if answers is not None:
        facts |= asdict(measure_rounding(runner, answers, weights=form.weights, max_kl_nats=form.max_kl_nats))
    proofs = prove_by_runtimes(
        config,
        reference,
        content,
        prompts,
        runtimes=(OPENVINO,),
        ends=all_ends(load_tokenizer(content), content),
        decides=True,
    )
    readers = ("openvino", *(proof.name for proof in proofs))
    return {**facts, **decode_seconds(timer_of(runner), reference, model.config.vocab_size), "readers": readers}
