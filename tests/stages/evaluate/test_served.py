"""A model measured behind an engine: what is counted, beside another in turns, how it reaches figures, gate and report, what is refused."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.registry.release.interval_gate import PASSED, TOO_FEW, judge_claims
from attar.stages.artifacts.serving.engines import ENGINES, Served
from attar.stages.artifacts.serving.load import ServedConfig, check_served, load_of
from attar.stages.artifacts.serving.server import free_port, running
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.evidence import evaluation_claim
from attar.stages.evaluate.gate_check import GateCheck
from attar.stages.evaluate.headline import served_headline
from attar.stages.evaluate.stage import evaluate
from tests.stages.artifacts.serving.stand_in_engine import write_engine

SMALL = {"max_rows": 2, "max_new_tokens": 2, "num_samples": 0, "precision": "float32"}


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program on PATH that stands for vLLM, and writes one text at a time."""
    program = write_engine(tmp_path / "bin", "vllm")
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def test_requests_tokens_and_seconds_are_counted(tmp_path: Path, engine: Path) -> None:
    config = ServedConfig(max_new_tokens=10)
    served = Served(folder=tmp_path, name="model", host="127.0.0.1", port=free_port())
    requests = [[{"role": "user", "content": f"Question {index}"}] for index in range(6)]
    with running(ENGINES["vllm"], served, tmp_path / "log", seconds=20) as server:
        alone, together = (load_of(server, config, requests, clients) for clients in (1, 3))
    assert alone.num_tokens == together.num_tokens == 60
    for load in (alone, together):
        assert len(load.request_seconds) == 6 and load.seconds >= 6 * 0.02, "it writes one text at a time"
    # behind two others a request waits for theirs, and the whole takes no longer
    assert statistics.median(together.request_seconds) > 1.5 * statistics.median(alone.request_seconds)
    assert together.seconds < 2 * alone.seconds


def test_a_served_model_is_measured_beside_another_and_gated(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, engine: Path
) -> None:
    timing = {
        "num_prompt_tokens": 8,
        "served": {"clients": [1, 2], "num_requests": 3, "max_new_tokens": 4, "num_rounds": 3},
    }
    config = EvaluateConfig(**SMALL, timing=timing)
    inputs = EvaluateInputs(model=model, tasks=(questions,), beside=model)
    artifact = evaluate.execute(config, inputs, store).artifact
    content = json.loads((artifact.path / "evaluation.json").read_text())
    served = content["served"]
    assert served["engine"] == "vllm" and set(served["clients"]) == set(served["beside"]["clients"]) == {"1", "2"}
    for figures in (*served["clients"].values(), *served["beside"]["clients"].values()):
        assert figures["num_tokens"] == 3 * 3 * 4 and len(figures["tokens_per_second_rounds"]) == 3
        low, middle, high = (figures[f"tokens_per_second{end}"] for end in ("_low", "", "_high"))
        assert 0 < low <= middle <= high
    assert artifact.facts["served_tokens_per_second_2"] == served["clients"]["2"]["tokens_per_second"]
    assert {"served_request_seconds_1", "served_request_seconds_1_low"} <= set(artifact.facts)
    for measure, limit in (("served_throughput_ratio", 0.001), ("served_latency_ratio", 1000.0)):
        for data in ("", "2"):
            [judged] = judge_claims(
                [evaluation_claim(GateCheck(measure=measure, limit=limit, data=data), content, content)], 0.05
            )
            assert judged.verdict == PASSED and judged.as_dict()["measured_on"] == "3 rounds"


def served_content(
    throughputs: dict[str, list[float]], beside: dict[str, list[float]], fingerprint: str
) -> dict[str, Any]:
    def of(rounds: dict[str, list[float]]) -> dict[str, Any]:
        return {
            clients: {"tokens_per_second_rounds": some, "request_seconds_rounds": [1 / value for value in some]}
            for clients, some in rounds.items()
        }

    return {"served": {"clients": of(throughputs), "beside": {"model_fingerprint": fingerprint, "clients": of(beside)}}}


def test_the_gate_reads_ratios_of_rounds_in_turns() -> None:
    content = served_content({"1": [20.0, 22.0], "4": [40.0, 44.0]}, {"1": [10.0, 11.0], "4": [10.0, 11.0]}, "original")
    baseline = {"model_fingerprint": "original"}

    def value(measure: str, data: str = "") -> float:
        claim = evaluation_claim(GateCheck(measure=measure, limit=1.0, data=data), content, baseline)
        assert claim.evidence is not None
        return claim.evidence.value

    assert value("served_throughput_ratio", "1") == pytest.approx(2.0)
    assert value("served_throughput_ratio") == pytest.approx(8.0**0.5), "the geometric mean of 2 and 4"
    assert value("served_latency_ratio", "4") == pytest.approx(0.25)
    apart = evaluation_claim(GateCheck(measure="served_latency_ratio", limit=1.0), content, {"model_fingerprint": "?"})
    assert apart.undecided == "served apart from the original; give evaluate the input beside"
    assert judge_claims([apart], 0.05)[0].verdict == TOO_FEW
    with pytest.raises(ValueError, match="'16' was not measured"):
        value("served_latency_ratio", "16")
    with pytest.raises(ValueError, match=r"the candidate was not served; set evaluate\.timing\.served"):
        evaluation_claim(GateCheck(measure="served_latency_ratio", limit=1.0), {"served": None}, baseline)
    with pytest.raises(ValidationError, match="accepted with served_latency_ratio: a number of clients, or nothing"):
        GateCheck(measure="served_latency_ratio", limit=1.0, data="many")


def test_figures_bear_the_number_of_clients() -> None:
    figures = {
        f"{name}{end}": 2.0 for name in ("tokens_per_second", "request_seconds") for end in ("", "_low", "_high")
    }
    names = served_headline({"clients": {"16": figures}})
    assert set(names) == {
        f"served_{name}_16{end}" for name in ("tokens_per_second", "request_seconds") for end in ("", "_low", "_high")
    }


@pytest.mark.parametrize(
    ("config", "inputs", "line"),
    [
        ({}, {"model": ({"hidden_size": 64},)}, "timing.served: the requests are questions; give the input tasks"),
        (
            {"engine": "onnx-genai"},
            {"model": ({"hidden_size": 64},), "tasks": ({},)},
            "timing.served.engine is onnx-genai; accepted: vllm, transformers for the input model",
        ),
        (
            {"engine": "onnx-genai"},
            {
                "model": ({"hidden_size": 64},),
                "tasks": ({},),
                "form": ({"format": "gguf"},),
                "beside": ({"hidden_size": 64},),
            },
            "timing.served.engine is onnx-genai; accepted: llama-server, llama-cpp-python for the input form; "
            "vllm, transformers for the input beside",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_runs(config: dict, inputs: dict, line: str) -> None:
    with pytest.raises(ValueError) as error:
        check_served(ServedConfig(**config), inputs)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("config", "line"),
    [({"engine": "ollama"}, "accepted: llama-server"), ({"clients": [1, 1]}, "each once"), ({"clients": [0]}, "1")],
)
def test_a_wrong_config_dies_while_the_recipe_loads(config: dict, line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        EvaluateConfig(timing={"served": config})


@pytest.mark.slow
def test_transformers_serves_what_was_pruned(store: Store, model: ModelArtifact, questions: DatasetArtifact) -> None:
    served = {"clients": [1, 4], "num_requests": 4, "max_new_tokens": 8, "num_rounds": 2, "engine": "transformers"}
    config = EvaluateConfig(**SMALL, timing={"num_prompt_tokens": 8, "served": served})
    artifact = evaluate.execute(config, EvaluateInputs(model=model, tasks=(questions,)), store).artifact
    figures = json.loads((artifact.path / "evaluation.json").read_text())["served"]
    assert figures["engine"] == "transformers" and "beside" not in figures
    for clients in ("1", "4"):
        assert 2 * 4 <= figures["clients"][clients]["num_tokens"] <= 2 * 4 * 8
        assert figures["clients"][clients]["tokens_per_second"] > 0
