"""An elastic encoder through the stages: trained as many, put together, the best part under a budget taken out, and measured like any other."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from attar.registry.artifacts.handles import DatasetArtifact, EncoderArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.encoder.folder import load_encoder
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.merge.config import MergeConfig, MergeInputs
from attar.stages.merge.stage import merge
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from tests.stages.artifacts.encoder.test_encoder_exits import _metrics
from tests.stages.artifacts.encoder.test_encoder_stages import CAUSAL, ENCODER, TAUGHT

SPACE: dict[str, Any] = {"blocks": [2, 3], "width": [32], "heads": [2], "channels": [64]}
TRAINING: dict[str, Any] = {
    **TAUGHT,
    "adapt": {"kind": "elastic", "space": SPACE, "order": ["width", "channels"]},
    "objectives": {"self_attention_relation": 1.0, "similarity_rows": 1.0},
    "teacher": {"kind": "input"},
    "schedule": {**TAUGHT["schedule"], "num_epochs": 6},
}
KNOWN = {**ENCODER, "num_blocks": 4, "hidden_size": 64, "num_parameters": 1000}
TRAINED = {**KNOWN, "elastic_blocks": (2, 3)}


@pytest.fixture(scope="session")
def supernet(shared_store: Store, encoder: EncoderArtifact, code: DatasetArtifact) -> EncoderArtifact:
    given = FinetuneInputs(model=encoder, data=(code,), teacher=encoder)
    student = finetune.execute(FinetuneConfig(**TRAINING), given, shared_store).artifact
    curves: dict[str, list[float]] = {}
    for entry in _metrics(student):
        curves.setdefault(entry["name"], []).append(entry["value"])
    # of the whole, which is the teacher itself, there is nothing to learn, and of its nearest parts little
    curve = curves["heldout_self_attention_relation_smallest_nats"]
    assert min(curve) < 0.7 * curve[0], curves
    assert student.facts.best_step, "all parts together are nearer than they were"
    assert student.facts.method == "elastic" and student.facts["elastic_width"] == (32,)
    return merge.execute(MergeConfig(), MergeInputs(base=encoder, students=(student,)), shared_store).artifact


def taken(store: Store, model: Any, elastic: dict[str, Any], **inputs: Any) -> EncoderArtifact:
    return prune.execute(PruneConfig(elastic=elastic), PruneInputs(model=model, **inputs), store).artifact


def test_the_best_part_within_the_budget_is_a_plain_encoder(
    store: Store, supernet: EncoderArtifact, encoder: EncoderArtifact, code: DatasetArtifact
) -> None:
    assert supernet.facts.elastic_blocks == (2, 3) and supernet.facts.elastic_channels == (64,)
    small = taken(store, supernet, {"budget": {"parameters": 0.4}}, data=(code,), teacher=encoder)
    record = json.loads((small.path / "records" / "search.json").read_text())
    entries = record["candidates"]
    assert record["taken"] == entries[0]["subnet"] and len(entries) > 2
    nats = [entry["proxy_nats"] for entry in entries]
    assert nats == sorted(nats) and all(entry["parameters"] <= 0.4 for entry in entries)
    assert small.facts.num_parameters == round(entries[0]["parameters"] * encoder.facts.num_parameters)
    assert "elastic_blocks" not in small.facts and small.facts.pooling == "mean"
    loaded = load_encoder(small.path)
    sizes = record["taken"]
    assert loaded.model.config.num_hidden_layers == small.facts.num_blocks == sizes["blocks"]
    assert loaded.model.config.hidden_size == sizes["width"]
    timed = taken(store, supernet, {"budget": {"ms": 0.99}, "max_candidates": 3}, data=(code,))
    assert timed.facts.num_parameters < encoder.facts.num_parameters


def test_a_named_part_is_taken_of_any_encoder_and_is_the_same_numbers(store: Store, encoder: EncoderArtifact) -> None:
    small = taken(store, encoder, {"subnet": {"blocks": 2, "width": 32, "heads": 2, "channels": 64}})
    whole, part = load_encoder(encoder.path), load_encoder(small.path)
    own, other = (some.model.get_input_embeddings().weight for some in (whole, part))
    assert torch.equal(own[:, :32], other) and part.model.config.num_attention_heads == 2
    assert taken(store, encoder, {"subnet": {"blocks": 3}}).facts.num_blocks == 3


def test_a_part_is_trained_on_like_any_encoder(store: Store, encoder: EncoderArtifact, code: DatasetArtifact) -> None:
    small = taken(store, encoder, {"subnet": {"blocks": 2, "width": 32, "heads": 2}})
    config = {**TRAINING, "adapt": {"kind": "full"}, "schedule": {"max_steps": 2, "tokens_per_step": 128}}
    given = FinetuneInputs(model=small, data=(code,), teacher=encoder)
    assert finetune.execute(FinetuneConfig(**config), given, store).artifact.facts.num_steps == 2


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        ({}, CAUSAL, "adapt.space has sub-networks of an encoder, but the model is a causal language model"),
        ({"space": {"blocks": [2, 6]}}, KNOWN, "adapt.space.blocks has 6, but the model has 4; accepted: 1 to 4"),
        ({"space": {"width": [96]}}, KNOWN, "adapt.space.width has 96, but the model has 64"),
    ],
)
def test_sizes_that_the_model_has_not_are_refused_in_the_plan(
    changes: dict[str, Any], model: dict[str, Any], message: str
) -> None:
    objectives = {} if model is CAUSAL else {"objectives": TRAINING["objectives"]}
    config = FinetuneConfig(
        adapt={"kind": "elastic", "space": SPACE, **changes}, teacher={"kind": "input"}, **objectives
    )
    with pytest.raises(ValueError) as refused:
        finetune.forecast(config, {"model": (model,), "data": ({},), "teacher": (model,)})
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_objectives_that_cannot_be_of_other_widths_or_of_exits_are_refused() -> None:
    given = {"model": (KNOWN,), "data": ({},), "teacher": (KNOWN,)}
    numbers = {**TRAINING, "objectives": {"embedding_distance": 1.0}}
    with pytest.raises(
        ValueError, match="objectives.embedding_distance compares vectors number by number, but sub-networks of adapt"
    ):
        finetune.forecast(FinetuneConfig(**numbers), given)
    deep = {"kind": "elastic", "space": {"blocks": [2]}}
    finetune.forecast(FinetuneConfig(**{**numbers, "adapt": deep}), given)
    with pytest.raises(ValueError, match="sub-networks of adapt have another width or order"):
        finetune.forecast(FinetuneConfig(**{**numbers, "adapt": {**deep, "order": ["width"]}}), given)
    exits = {**TRAINING, "adapt": {"kind": "full", "exits": [2, 4]}}
    with pytest.raises(ValueError, match="reads queries, keys and values of the last block, but adapt.exits is .2, 4."):
        finetune.forecast(FinetuneConfig(**exits), given)


@pytest.mark.parametrize(
    ("elastic", "inputs", "message"),
    [
        ({"budget": {"parameters": 0.5}}, {"model": (TRAINED,)}, "elastic.budget needs the input `data`"),
        ({"budget": {"parameters": 0.5}}, {"model": (KNOWN,), "data": ({},)}, "the model's record names none; accepted: one merged from a finetune"),
        ({"subnet": {"blocks": 2}}, {"model": (KNOWN,), "data": ({},)}, "elastic.subnet names the sub-network and compares none; accepted: no input `data`"),
        ({"subnet": {"blocks": 2}}, {"model": (KNOWN,), "teacher": (KNOWN,)}, "accepted: no input `teacher`"),
        ({"subnet": {"blocks": 9}}, {"model": (KNOWN,)}, "elastic.subnet.blocks has 9, but the model has 4"),
        ({"subnet": {"blocks": 2}}, {"model": (CAUSAL,)}, "elastic takes a sub-network, and the model is a causal language model; accepted: an encoder or an image classifier"),
        ({"budget": {"parameters": 0.5}}, {"model": (TRAINED,), "data": ({},), "teacher": (CAUSAL,)}, "the input `teacher` is a causal language model"),
    ],
)  # fmt: skip
def test_what_a_search_cannot_do_is_refused_in_the_plan(
    elastic: dict[str, Any], inputs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as refused:
        prune.forecast(PruneConfig(elastic=elastic), inputs)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"elastic": {}}, "elastic.budget and elastic.subnet contradict: neither given"),
        ({"elastic": {"budget": {"parameters": 1.5}}}, "elastic.budget.parameters is 1.5; accepted: above 0 and below 1"),
        ({"elastic": {"subnet": {"blocks": 2}}, "num_blocks": 1}, "num_blocks and elastic contradict"),
        ({"elastic": {"subnet": {"blocks": 2}}, "patch": {"kind": "refit"}}, "patch is for causal language models"),
    ],
)  # fmt: skip
def test_ways_that_contradict_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruneConfig(**config)


def test_a_teacher_is_for_a_search_alone(supernet: EncoderArtifact) -> None:
    with pytest.raises(ValueError, match="the input `teacher` is what elastic.budget compares sub-networks with"):
        prune.forecast(PruneConfig(blocks=[1]), {"model": (TRAINED,), "teacher": (TRAINED,)})


def test_a_budget_that_nothing_meets_names_the_nearest_and_sizes_that_do_not_divide_are_refused(
    store: Store, supernet: EncoderArtifact, encoder: EncoderArtifact, code: DatasetArtifact
) -> None:
    with pytest.raises(
        ValueError, match="elastic.budget is parameters 0.01, which none of 18 .*; the nearest is 2 blocks, width 32"
    ):
        taken(store, supernet, {"budget": {"parameters": 0.01}}, data=(code,))
    with pytest.raises(
        ValueError, match="elastic.subnet.width is 32, which 1 heads do not divide into heads of at most 16; accepted"
    ):
        taken(store, encoder, {"subnet": {"width": 32, "heads": 1}})
    bad = {**TRAINING, "adapt": {"kind": "elastic", "space": {"width": [30]}}}
    given = FinetuneInputs(model=encoder, data=(code,), teacher=encoder)
    with pytest.raises(ValueError, match="adapt.space.width has 30, which none of 4 heads divides"):
        finetune.execute(FinetuneConfig(**bad), given, store)
