"""bitsandbytes: a folder that loads by itself, its loss measured and held to a limit."""

from __future__ import annotations

import csv
from typing import Any

import pytest
import torch

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import folder_facts, load_model
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.export.config import ExportConfig
from attar.stages.export.stage import export
from attar.stages.quantize.bits_and_bytes import QuantizeTorchConfig, QuantizeTorchInputs, quantize_torch
from attar.stages.quantize.limits import Limits


def run(
    store: Store, model: ModelArtifact, data: DatasetArtifact, method: str, max_kl_nats: float = 100.0, **changes: Any
) -> ModelArtifact:
    config = QuantizeTorchConfig(
        method=method, limits=Limits(max_kl_nats=max_kl_nats), max_tokens=32, **{"precision": "float32", **changes}
    )  # type: ignore[arg-type]
    return quantize_torch.execute(config, QuantizeTorchInputs(model=model, data=data), store).artifact


def test_each_method_is_smaller_and_more_bits_lose_less(
    shared_store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    eight, four = (run(shared_store, model, questions, method) for method in ("int8", "nf4"))
    assert 0 < float(eight.facts["kl_nats"]) < float(four.facts["kl_nats"])
    assert float(four.facts["size_fraction"]) < float(eight.facts["size_fraction"]) < 0.8
    for artifact in (eight, four):
        with (artifact.path / "modules.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == 4 * 7, "every matrix of four blocks"
        facts = folder_facts(artifact.path)
        assert facts["num_parameters"] == model.facts["num_parameters"], "what a plan tells of such a folder"
        loaded = load_model(artifact.path, torch.float32)
        assert torch.isfinite(loaded(input_ids=torch.tensor([[5, 6, 7]])).logits).all()
        with pytest.raises(ValueError, match="export first, then quantize"):
            export.forecast(ExportConfig(), {"model": (artifact.facts,), "data": ({},)})


@pytest.mark.parametrize(("method", "precision"), [("int8", "float32"), ("nf4", "bfloat16")])
def test_a_model_is_quantized_the_same_by_blocks_and_whole(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, method: str, precision: str
) -> None:
    whole, paged = (
        run(store, model, questions, method, precision=precision, in_memory=way, max_rows=4)
        for way in ("model", "block")
    )
    for path in whole.path.iterdir():
        if path.is_file() and path.name != "quality.json":
            assert path.read_bytes() == (paged.path / path.name).read_bytes(), path.name
    timed = {name for name in whole.facts if "seconds" in name}
    assert timed and {name: value for name, value in whole.facts.items() if name not in timed} == dict(paged.facts)


def test_the_evaluations_tasks_run_on_it(shared_store: Store, model: ModelArtifact, questions: DatasetArtifact) -> None:
    config = EvaluateConfig(
        max_rows=3, max_new_tokens=4, num_samples=0, timing={"num_prompt_tokens": 8}, precision="float32"
    )
    before, after = (
        evaluate.execute(config, EvaluateInputs(model=some_model, tasks=(questions,)), shared_store).artifact.facts
        for some_model in (model, run(shared_store, model, questions, "nf4"))
    )
    assert before.keys() == after.keys() >= {"accuracy_sums", "decode_seconds_per_token"}
    assert float(after["disk_bytes"]) < float(before["disk_bytes"])
    assert after["num_parameters"] == before["num_parameters"] and after["flops_per_token"] == before["flops_per_token"]


def test_too_great_a_loss_fails_and_names_the_worst(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    with pytest.raises(ValueError, match=r"loses too much: KL .* <= 1e-06; largest relative error: model\.layers"):
        run(store, model, questions, "nf4", 1e-6)
    assert not list((store.root / "store").glob("quantize_torch/*"))
