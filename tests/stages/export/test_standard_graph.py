"""`export` with `operators: standard`: what the folder says of itself, and who refuses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.store import Store
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.quantize.limits import Limits
from attar.stages.quantize.stage import QuantizeConfig, QuantizeInputs, quantize
from attar.stages.register.forms import forms_by_folder

STANDARD = ExportConfig(format={"kind": "onnx", "operators": "standard", "opset": 20}, num_prompts=1, num_new_tokens=4)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def standard(shared_store: Store, model: ModelArtifact, questions: DatasetArtifact) -> OnnxArtifact:
    return export.execute(STANDARD, ExportInputs(model=model, data=questions), shared_store).artifact  # type: ignore[return-value]


def test_the_folder_says_what_it_is(standard: OnnxArtifact, graph: OnnxArtifact) -> None:
    assert standard.facts.operators == "standard" and standard.facts.token_agreement == 1.0
    genai = json.loads((standard.path / "genai_config.json").read_text())
    assert genai["search"]["past_present_share_buffer"] is False
    assert graph.facts.operators is None
    expected = export.forecast(STANDARD, {"model": ({"num_parameters": 10, "num_blocks": 1},)})
    assert expected.facts["operators"] == "standard"


def test_both_graphs_go_into_one_version(standard: OnnxArtifact, graph: OnnxArtifact) -> None:
    assert list(forms_by_folder([graph], [standard])) == ["onnx", "onnx-standard"]


def test_integers_are_refused_because_their_nodes_are_onnxruntimes_own(
    standard: OnnxArtifact, questions: DatasetArtifact, store: Store
) -> None:
    config = QuantizeConfig(limits=Limits(max_kl_nats=100.0))
    refusal = r"weights\.bits is 8, but the input's graph has ONNX' own operators alone, .* accepted: a graph of export with format\.operators fused"
    with pytest.raises(ValueError, match=refusal):
        quantize.forecast(config, {"model": (standard.facts,), "data": ({},)})
    with pytest.raises(ValueError, match=refusal):
        quantize.execute(config, QuantizeInputs(model=standard, data=questions), store)


def test_guidance_and_experts_are_refused_by_the_plan(model: ModelArtifact) -> None:
    with pytest.raises(
        ValueError, match="format.operators is 'standard', which has no input for guidance_scale; accepted: fused"
    ):
        export.forecast(STANDARD, {"model": (model.facts,), "guidance": ({},)})
    experts = {**model.facts, "num_experts": 4, "expert_parameters": 1000}
    with pytest.raises(
        ValueError,
        match=r"format.operators is 'standard', but the model has experts, .*com\.microsoft\.MoE; accepted: fused",
    ):
        export.forecast(STANDARD, {"model": (experts,)})


def test_the_folder_is_of_its_own_alone(standard: OnnxArtifact) -> None:
    """Nothing of the trace's scratch is left in it."""
    assert {path.name for path in standard.path.iterdir()} >= {"model.onnx", "model.onnx_data", "parity.json"}
    assert not list(Path(standard.path).rglob("*.npy"))
