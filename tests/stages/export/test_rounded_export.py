"""`export` in 16 bits and with an 8-bit cache: facts, forecast, what reads the folder, what is refused, and what later stages do with it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attar.pipelines.browser.page_server import precision_of
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.store import Store
from attar.stages.evaluate.config import EvaluateConfig
from attar.stages.evaluate.stage import evaluate
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.quantize.limits import Limits
from attar.stages.quantize.stage import QuantizeConfig, QuantizeInputs, quantize

CODED = {"kind": "int8", "num_samples": 3, "max_tokens": 32}


def config_of(**form: Any) -> ExportConfig:
    return ExportConfig(format={"kind": "onnx", **form}, num_prompts=1, num_new_tokens=8)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def exported(shared_store: Store, model: ModelArtifact, questions: DatasetArtifact) -> Any:
    def make(**form: Any) -> OnnxArtifact:
        return export.execute(config_of(**form), ExportInputs(model=model, data=questions), shared_store).artifact  # type: ignore[return-value]

    return make


def test_float16_halves_the_bytes_and_says_so(exported: Any, graph: OnnxArtifact, model: ModelArtifact) -> None:
    half = exported(precision="float16")
    assert half.facts.precision == "float16" and graph.facts.precision is None
    assert 0 < half.facts.kl_nats < 1e-3 and half.facts.agreement >= 0.5  # a random model is unsure of its tokens
    assert 2 * half.facts.cache_bytes_per_token == graph.facts.cache_bytes_per_token == 4 * 2 * 2 * 16 * 4
    sizes = [(folder / "model.onnx_data").stat().st_size for folder in (half.path, graph.path)]
    assert 0.45 < sizes[0] / sizes[1] < 0.55
    forecasts = [
        export.forecast(config_of(**form), {"model": (model.facts,)}) for form in ({"precision": "float16"}, {})
    ]
    weights = model.facts.num_parameters
    assert forecasts[1].disk_bytes - forecasts[0].disk_bytes == pytest.approx(2 * weights)
    assert forecasts[0].facts["precision"] == "float16"
    config = json.loads((half.path / "config.json").read_text())["transformers.js_config"]
    assert config == {"use_external_data_format": {"model.onnx": 1}, "kv_cache_dtype": "float16"}


@pytest.mark.slow
def test_a_graph_in_bfloat16_is_proved_though_nothing_runs_it_here(exported: Any) -> None:
    half = exported(precision="bfloat16")
    assert half.facts.precision == "bfloat16" and 0 < half.facts.kl_nats < 0.02


def test_a_graph_in_bfloat16_is_measured_and_quantized_nowhere_here() -> None:
    facts = {"precision": "bfloat16", "format": "onnx", "num_parameters": 10}
    refusal = (
        "provider is 'CPUExecutionProvider', which has no products in bfloat16, .*; accepted: CUDAExecutionProvider"
    )
    with pytest.raises(ValueError, match=refusal):
        evaluate.forecast(EvaluateConfig(), {"model": (facts,), "tasks": ({},)})
    with pytest.raises(ValueError, match="weights.bits is 8, but the input's graph is in bfloat16, rounded already"):
        quantize.forecast(QuantizeConfig(limits=Limits(max_kl_nats=100.0)), {"model": (facts,), "data": ({},)})


def test_an_int8_cache_goes_on_into_integer_weights(
    exported: Any, graph: OnnxArtifact, questions: DatasetArtifact, shared_store: Store
) -> None:
    coded = exported(cache=CODED)
    assert coded.facts.cache == "int8" and 4 * coded.facts.cache_bytes_per_token == graph.facts.cache_bytes_per_token
    assert 0 < coded.facts.kl_nats < 0.02
    limits = QuantizeConfig(limits=Limits(max_kl_nats=100.0), measured={"max_tokens": 16})  # type: ignore[arg-type]
    integers = quantize.execute(limits, QuantizeInputs(model=coded, data=questions), shared_store).artifact
    assert integers.facts["cache"] == "int8" and integers.facts["quantization"] == "int8 weights"
    assert integers.facts["cache_bytes_per_token"] == coded.facts.cache_bytes_per_token
    for form in (coded, integers):  # no browser run has tried one
        with pytest.raises(ValueError, match="is in int8; accepted in a browser"):
            precision_of(form.path)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"precision": "float16", "early": {"exits": [1, 2, 3]}}, "precision is 'float16', but early makes branches"),
        ({"precision": "bfloat16", "operators": "standard"}, "precision is 'bfloat16', but operators is 'standard'"),
        ({"cache": {"kind": "int8"}, "operators": "standard"}, "cache.kind is 'int8', which .* alone has"),
        ({"precision": "float16", "takes_prefix": True}, "precision is 'float16', but takes_prefix is true"),
        ({"cache": {"kind": "int8"}, "takes_prefix": True}, "cache.kind is 'int8', but takes_prefix is true"),
    ],
    ids=["branches", "bfloat16 elsewhere", "int8 elsewhere", "half behind vectors", "int8 behind vectors"],
)
def test_what_no_graph_has_is_refused_by_its_config(form: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}.*; accepted: "):
        config_of(**form)


def test_what_other_models_have_not_is_refused_by_the_plan(model: ModelArtifact) -> None:
    with pytest.raises(ValueError, match="precision is 'float16', but the node has the input guidance; accepted: "):
        export.forecast(config_of(precision="float16"), {"model": (model.facts,), "guidance": ({},)})
    encoder = {"pooling": "mean", "num_parameters": 10}
    with pytest.raises(ValueError, match="format.cache.kind is 'int8', but the model is .*, which keeps no cache"):
        export.forecast(ExportConfig(format={"kind": "onnx", "cache": {"kind": "int8"}}), {"model": (encoder,)})  # type: ignore[arg-type]
