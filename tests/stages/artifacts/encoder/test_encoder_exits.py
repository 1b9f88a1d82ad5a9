"""An encoder with exits through the stages: learned at three depths, measured at each, exported one by one and as a graph that may end early."""

from __future__ import annotations

from typing import Any

import pytest

from attar.registry.artifacts.handles import DatasetArtifact, EncoderArtifact, EncoderGraphArtifact
from attar.registry.artifacts.store import Store
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.merge.config import MergeConfig, MergeInputs
from attar.stages.merge.stage import merge
from attar.stages.quantize.config import QuantizeConfig, QuantizeInputs
from attar.stages.quantize.stage import quantize
from tests.stages.artifacts.encoder.conftest import encoder_of
from tests.stages.artifacts.encoder.test_encoder_stages import CAUSAL, ENCODER, TAUGHT, cut

EXITS = [1, 2, 4]
PAIRED: dict[str, Any] = {
    **TAUGHT,
    "adapt": {"kind": "full", "exits": EXITS},
    "objectives": {"pair_contrast": 1.0},
    "teacher": {"kind": "auto"},
    "schedule": {"num_epochs": 16, "learning_rate": 3e-3, "tokens_per_step": 1024},
    "compute": {"tokens_per_micro_batch": 1024, "precision": "float32"},
}


def learned(
    store: Store, model: EncoderArtifact, data: DatasetArtifact, config: dict[str, Any], **inputs: Any
) -> EncoderArtifact:
    given = FinetuneInputs(model=model, data=(data,), **inputs)
    student = finetune.execute(FinetuneConfig(**config), given, store).artifact
    return merge.execute(MergeConfig(), MergeInputs(base=model, students=(student,)), store).artifact


@pytest.fixture(scope="session")
def with_exits(shared_store: Store, encoder: EncoderArtifact, code: DatasetArtifact) -> EncoderArtifact:
    return learned(shared_store, encoder, code, PAIRED)


def figures(store: Store, model: Any, data: DatasetArtifact) -> dict[str, Any]:
    inputs = EvaluateInputs(model=model, tasks=(data,))
    return dict(evaluate.execute(EvaluateConfig(precision="float32", part="choose"), inputs, store).artifact.facts)


def test_every_exit_learns_and_is_measured_as_the_model_cut_there(
    store: Store, with_exits: EncoderArtifact, encoder: EncoderArtifact, code: DatasetArtifact
) -> None:
    assert with_exits.facts.exits == (1, 2, 4)
    measured = figures(store, with_exits, code)
    for depth in EXITS[:-1]:
        pruned = cut(store, with_exits, blocks=list(range(depth, 4)))
        assert figures(store, pruned, code)["mrr"] == measured[f"exit_{depth}_mrr"]
        assert pruned.facts.exits == tuple(some for some in EXITS if some <= depth)
    assert "exit_4_mrr" not in measured and "exit_1_mrr" not in figures(store, encoder, code)
    once = cut(store, with_exits, blocks=[2])
    assert once.facts.exits == (1, 2) and figures(store, once, code)["exit_2_mrr"] == measured["exit_2_mrr"]


def test_exits_learn_of_a_teacher_and_of_the_last_exit(
    store: Store, encoder: EncoderArtifact, code: DatasetArtifact
) -> None:
    near = {**TAUGHT, "adapt": {"kind": "full", "exits": EXITS}, "objectives": {"embedding_distance": 1.0}}
    for config, inputs in (
        (near, {"teacher": encoder}),
        ({**near, "teacher": {"kind": "self", "rule": {"kind": "live"}}}, {}),
    ):
        given = FinetuneInputs(model=encoder, data=(code,), **inputs)
        artifact = finetune.execute(FinetuneConfig(**config), given, store).artifact
        curve = [
            entry["value"] for entry in _metrics(artifact) if entry["name"] == "heldout_embedding_distance_exit_1_nats"
        ]
        assert min(curve) < 0.7 * curve[0], curve


def _metrics(artifact: Any) -> list[dict[str, Any]]:
    import json

    lines = (artifact.path / "records" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_an_exit_is_exported_alone_or_in_a_graph_that_may_end_there(
    store: Store, with_exits: EncoderArtifact, code: DatasetArtifact
) -> None:
    pruned = cut(store, with_exits, blocks=[2, 3])
    inputs = ExportInputs(model=with_exits, data=code)
    alone = export.execute(ExportConfig(format={"kind": "onnx", "exit": 2}, num_prompts=8), inputs, store).artifact
    assert isinstance(alone, EncoderGraphArtifact) and alone.facts.num_blocks == 2
    assert alone.facts.num_parameters == pruned.facts.num_parameters
    assert figures(store, alone, code)["mrr"] == figures(store, pruned, code)["mrr"]
    early = {"exits": EXITS, "min_agreement": -1.0}
    graph = export.execute(ExportConfig(format={"kind": "onnx", "early": early}, num_prompts=8), inputs, store).artifact
    assert graph.facts.early_exits == (1, 2, 4) and graph.facts.max_vector_difference < 1e-4
    assert figures(store, graph, code)["mrr"] == figures(store, pruned, code)["mrr"], (
        "all texts are alike enough for -1"
    )
    small = QuantizeConfig(limits={"kind": "vectors", "max_cosine_distance": 0.05})
    with pytest.raises(ValueError, match="may end before its last block"):
        quantize.execute(small, QuantizeInputs(model=graph, data=code), store)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["distilbert"])
def test_the_config_beside_an_exit_s_graph_says_its_blocks(store: Store, family: str, code: DatasetArtifact) -> None:
    from transformers import AutoConfig

    made = encoder_of(store, f"random:{family}?num_blocks=3&hidden_size=32")
    config = ExportConfig(format={"kind": "onnx", "exit": 1}, num_prompts=4)
    graph = export.execute(config, ExportInputs(model=made, data=code), store).artifact
    assert AutoConfig.from_pretrained(graph.path).num_hidden_layers == 1


FULL = {"kind": "full", "exits": [2, 6]}


@pytest.mark.parametrize(
    ("stage", "config", "model", "message"),
    [
        (
            finetune,
            FinetuneConfig(**{**PAIRED, "adapt": FULL}),
            ENCODER,
            "adapt.exits is .2, 6., deeper than the model of 4 blocks; accepted: 1 to 4",
        ),
        (
            finetune,
            FinetuneConfig(**{**PAIRED, "adapt": {"kind": "full", "exits": [2]}}),
            ENCODER,
            "adapt.exits is 2, and the model goes on to 4 blocks; accepted: a last exit at 4",
        ),
        (finetune, FinetuneConfig(adapt=FULL), CAUSAL, "the model is a causal language model; accepted: an encoder"),
        (export, ExportConfig(format={"kind": "onnx", "exit": 5}), ENCODER, "format.exit is 5, deeper than the model"),
        (
            export,
            ExportConfig(format={"kind": "onnx", "exit": 2}),
            CAUSAL,
            "format.exit is 2, but the model is a causal",
        ),
        (
            export,
            ExportConfig(format={"kind": "onnx", "early": {"exits": [1, 2, 3]}}),
            ENCODER,
            "accepted: a last exit at 4",
        ),
    ],
)
def test_an_exit_that_is_not_there_is_refused_ahead(
    stage: Any, config: Any, model: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        stage.forecast(config, {"model": (model,), "data": ({},)})
    assert "\n" not in str(refused.value)


def test_exits_ascend() -> None:
    with pytest.raises(ValueError, match="each once, from the first to the last"):
        FinetuneConfig(**{**PAIRED, "adapt": {"kind": "full", "exits": [4, 2]}})
    with pytest.raises(ValueError, match="exit and early contradict"):
        ExportConfig(format={"kind": "onnx", "exit": 2, "early": {"exits": [1, 2, 4]}})
