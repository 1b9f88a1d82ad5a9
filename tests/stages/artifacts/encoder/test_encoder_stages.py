"""An encoder through the stages: scanned, cut, taught, folded, exported, quantized, measured. What is of causal models is refused first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.compressors.encode.encoder import encoded
from attar.compressors.encode.session import GraphEncoder
from attar.compressors.measure.ranking import cosines, spearman
from attar.registry.artifacts.handles import (
    DatasetArtifact,
    EncoderArtifact,
    EncoderGraphArtifact,
    ModelArtifact,
    ScanArtifact,
)
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.artifacts.encoder.folder import load_encoder
from attar.stages.artifacts.encoder.texts import TextReader, texts_of
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.paired_evaluations import evaluation_of, paired_ratios
from attar.stages.evaluate.stage import evaluate
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.merge.config import MergeConfig, MergeInputs
from attar.stages.merge.stage import merge
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.quantize.config import QuantizeConfig, QuantizeInputs
from attar.stages.quantize.stage import quantize
from attar.stages.scan.config import ScanConfig
from attar.stages.scan.stage import ScanInputs, scan
from attar.stages.scan.tables import TABLE, read_scores
from tests.stages.artifacts.encoder.conftest import CODE, encoder_of, ingested

TAUGHT: dict[str, Any] = {
    "adapt": {"kind": "full"},
    "objectives": {"embedding_distance": 1.0, "similarity_rows": 0.1, "token_distance": 0.5},
    "teacher": {"kind": "input", "run_once": True},
    "schedule": {"num_epochs": 12, "learning_rate": 3e-3, "tokens_per_step": 512},
    "compute": {"tokens_per_micro_batch": 512, "precision": "float32"},
    "heldout": {"every": 4, "patience": 0},
}


def vectors_of(artifact: EncoderArtifact, data: DatasetArtifact) -> torch.Tensor:
    ids = TextReader(artifact.path, artifact.facts.max_tokens)(texts_of(read_rows(data.path / "rows.jsonl")))
    return encoded(load_encoder(artifact.path), ids)


def cut(store: Store, encoder: EncoderArtifact, **config: Any) -> EncoderArtifact:
    return prune.execute(PruneConfig(**config), PruneInputs(model=encoder), store).artifact


def test_a_scan_tells_the_influence_of_each_block(
    store: Store, encoder: EncoderArtifact, code: DatasetArtifact
) -> None:
    config = ScanConfig(
        metrics=["block_influence", "angular_distance"],
        calibration={"num_samples": 12, "max_tokens": 64, "precision": "float32"},
    )
    artifact = scan.execute(config, ScanInputs(model=encoder, data=code), store).artifact
    assert isinstance(artifact, ScanArtifact) and artifact.facts.num_blocks == 4
    scores = read_scores(artifact.path / TABLE, "block_influence")
    rows = [row for row in read_rows(code.path / "rows.jsonl") if row.split == "train"]
    ids = TextReader(encoder.path, 128)(texts_of(rows))[:12]
    states = [_states(encoder, [some[:64]]) for some in ids]
    for first in range(4):
        cosine = torch.cat([torch.cosine_similarity(some[first], some[first + 1], dim=-1) for some in states])
        assert scores[first, 1] == pytest.approx(float((1 - cosine).mean()), rel=1e-4)
    pruned = prune.execute(
        PruneConfig(num_blocks=2, metric="block_influence", choice="free"),
        PruneInputs(model=encoder, scan=artifact),
        store,
    ).artifact
    lowest = sorted(sorted(range(4), key=lambda block: scores[block, 1])[:2])
    assert list(pruned.facts.removed_blocks) == lowest


def _states(encoder: EncoderArtifact, ids: list[list[int]]) -> list[torch.Tensor]:
    model = load_encoder(encoder.path).model
    with torch.no_grad():
        return [state[0] for state in model(torch.tensor(ids), output_hidden_states=True).hidden_states]


def test_a_cut_encoder_is_its_kept_blocks_and_keeps_its_form(
    store: Store, encoder: EncoderArtifact, code: DatasetArtifact
) -> None:
    pruned = cut(store, encoder, blocks=[1, 2])
    assert isinstance(pruned, EncoderArtifact) and pruned.facts.num_blocks == 2
    assert (pruned.facts.pooling, pruned.facts.is_normalized, pruned.facts.max_tokens) == ("mean", True, 128)
    whole, smaller = load_encoder(encoder.path), load_encoder(pruned.path)
    for layer, old in zip(smaller.model.encoder.layer, (0, 3), strict=True):
        assert all(map(torch.equal, layer.parameters(), whole.model.encoder.layer[old].parameters()))
    assert not torch.allclose(vectors_of(pruned, code), vectors_of(encoder, code), atol=1e-3)


@pytest.mark.parametrize("family", ["roberta", "distilbert", "mpnet", "electra"])
def test_every_family_is_cut_and_exported(store: Store, family: str, code: DatasetArtifact) -> None:
    from attar.stages.export.stage import ExportConfig, ExportInputs, export

    made = encoder_of(store, f"random:{family}?num_blocks=3&hidden_size=32", pooling="cls")
    pruned = cut(store, made, blocks=[1])
    graph = export.execute(ExportConfig(num_prompts=4), ExportInputs(model=pruned, data=code), store).artifact
    assert graph.facts.max_vector_difference < 1e-4 and graph.facts.num_blocks == 2


def test_a_cut_encoder_learns_the_original_s_vectors(
    store: Store, encoder: EncoderArtifact, code: DatasetArtifact
) -> None:
    pruned = cut(store, encoder, blocks=[1, 2])
    inputs = FinetuneInputs(model=pruned, data=(code,), teacher=encoder)
    student = finetune.execute(FinetuneConfig(**TAUGHT), inputs, store).artifact
    healed = merge.execute(MergeConfig(), MergeInputs(base=pruned, students=(student,)), store).artifact
    assert isinstance(healed, EncoderArtifact) and healed.facts.removed_blocks == (1, 2)
    goal, before, after = (vectors_of(artifact, code) for artifact in (encoder, pruned, healed))
    apart = [float((1 - torch.cosine_similarity(goal, vectors, dim=-1)).mean()) for vectors in (before, after)]
    assert apart[1] < 0.5 * apart[0]
    embeddings = [load_encoder(a.path).model.get_input_embeddings().weight for a in (pruned, healed)]
    assert torch.equal(*embeddings)


def test_a_teacher_run_once_teaches_as_a_live_one(
    store: Store, encoder: EncoderArtifact, code: DatasetArtifact
) -> None:
    pruned = cut(store, encoder, blocks=[3])
    # states of tokens are recorded in half precision, vectors whole
    short = {**TAUGHT, "objectives": {"embedding_distance": 1.0}, "schedule": {"max_steps": 3, "tokens_per_step": 512}}
    weights = []
    for run_once in (True, False):
        config = FinetuneConfig(**{**short, "teacher": {"kind": "input", "run_once": run_once}})
        inputs = FinetuneInputs(model=pruned, data=(code,), teacher=encoder)
        folder = finetune.execute(config, inputs, store).artifact.path
        weights.append((folder / "weights.safetensors").read_bytes())
    loaded = [torch.frombuffer(bytearray(some[-4096:]), dtype=torch.float32) for some in weights]
    assert torch.allclose(*loaded, atol=1e-5)


def test_the_graph_gives_the_vectors_and_its_bytes_in_integers_nearly(
    store: Store, encoder: EncoderArtifact, encoder_graph: EncoderGraphArtifact, code: DatasetArtifact
) -> None:
    ids = TextReader(encoder.path, 128)(texts_of(read_rows(code.path / "rows.jsonl")))
    graph = GraphEncoder(open_session(encoder_graph.path), "CPUExecutionProvider")
    assert torch.allclose(encoded(graph, ids), encoded(load_encoder(encoder.path), ids), atol=1e-5)
    names = [entry.name for entry in graph.session.get_outputs()]
    assert names == ["token_embeddings", "sentence_embedding"]
    config = QuantizeConfig(
        limits={"kind": "vectors", "max_cosine_distance": 0.05}, weights={"kind": "dynamic", "block_size": 64}
    )
    small = quantize.execute(config, QuantizeInputs(model=encoder_graph, data=code), store).artifact
    assert isinstance(small, EncoderGraphArtifact) and small.facts.quantization == "dynamic int8"
    assert 0 < small.facts.cosine_distance < 0.02 and small.facts.size_fraction < 0.5
    tight = QuantizeConfig(limits={"kind": "vectors", "max_cosine_distance": 1e-9}, weights={"kind": "dynamic"})
    with pytest.raises(ValueError, match="the quantized encoder loses too much: cosine_distance"):
        quantize.execute(tight, QuantizeInputs(model=encoder_graph, data=code), store)


def test_an_evaluation_ranks_pairs_and_texts(
    store: Store,
    encoder: EncoderArtifact,
    encoder_graph: EncoderGraphArtifact,
    pairs: DatasetArtifact,
    code: DatasetArtifact,
) -> None:
    inputs = EvaluateInputs(model=encoder, tasks=(pairs, code), beside=encoder_graph)
    measured = evaluate.execute(EvaluateConfig(precision="float32"), inputs, store).artifact
    content, facts = evaluation_of(measured), measured.facts
    rows = read_rows(pairs.path / "rows.jsonl")
    reader, runner = TextReader(encoder.path, 128), load_encoder(encoder.path)
    first, second = (encoded(runner, reader([getattr(row, name) for row in rows])) for name in ("question", "answer"))
    expected = spearman(cosines(first, second), [row.similarity or 0.0 for row in rows])
    assert (
        facts["spearman"] == pytest.approx(expected, abs=1e-6)
        and facts["spearman_low"] <= expected <= facts["spearman_high"]
    )
    ranks = content["retrieval"]["code"]["ranks"]
    assert len(ranks) == 3 and facts["mrr"] == pytest.approx(np.mean([1 / some[0] for some in ranks]))
    assert (
        0 < facts["embed_seconds"] < 5
        and content["latency"]["beside"]["model_fingerprint"] == encoder_graph.fingerprint
    )
    again = evaluate.execute(EvaluateConfig(), EvaluateInputs(model=encoder_graph, tasks=(pairs, code)), store).artifact
    ratios = paired_ratios(evaluation_of(again), content)
    assert ratios["spearman"].value == pytest.approx(1.0, abs=1e-3) and ratios["mrr"].value == pytest.approx(1.0)


def test_a_corpus_is_named_by_ids(store: Store, encoder: EncoderArtifact, tmp_path: Path) -> None:
    texts = [{"id": f"t{index}", "text": entry["answer"]} for index, entry in enumerate(CODE)]
    queries_asked = [{"question": entry["question"], "positives": [f"t{index}"]} for index, entry in enumerate(CODE)]
    columns = {"positives": "positives"}
    queries = ingested(store, tmp_path / "queries.jsonl", queries_asked, columns=columns, heldout_fraction=0.0)
    corpus = ingested(store, tmp_path / "corpus.jsonl", texts, columns={"row_id": "id"}, heldout_fraction=0.0)
    inputs = EvaluateInputs(model=encoder, tasks=(queries,), text=corpus)
    content = evaluation_of(evaluate.execute(EvaluateConfig(), inputs, store).artifact)
    assert content["retrieval"]["queries"]["num_texts"] == len(CODE)
    unnamed = ingested(store, tmp_path / "unnamed.jsonl", texts, heldout_fraction=0.0)
    for text, message in ((unnamed, "has no ids of its own"), (None, "give the corpus as the input text")):
        with pytest.raises(ValueError, match=message):
            evaluate.execute(EvaluateConfig(), EvaluateInputs(model=encoder, tasks=(queries,), text=text), store)
    astray = [{"question": "where", "positives": ["t99"]}]
    lost = ingested(store, tmp_path / "lost.jsonl", astray, columns=columns, heldout_fraction=0.0)
    with pytest.raises(ValueError, match="names text 't99', which the corpus of 12 texts does not hold"):
        evaluate.execute(EvaluateConfig(), EvaluateInputs(model=encoder, tasks=(lost,), text=corpus), store)
    twice = json.loads(json.dumps([texts[0], texts[0]]))
    with pytest.raises(ValueError, match="id 't0' is there twice"):
        ingested(store, tmp_path / "twice.jsonl", twice, columns={"row_id": "id"})


ENCODER: dict[str, Any] = {
    "pooling": "mean",
    "is_normalized": True,
    "max_tokens": 128,
    "num_blocks": 4,
    "vocab_size": 259,
}
CAUSAL: dict[str, Any] = {"num_blocks": 4, "vocab_size": 259}


@pytest.mark.parametrize(
    ("stage", "config", "inputs", "message"),
    [
        (scan, ScanConfig(metrics=["taylor"]), {"model": ENCODER}, "'taylor', which needs a causal language model"),
        (scan, ScanConfig(measure_latency=True), {"model": ENCODER}, "measure_latency is for causal"),
        (
            prune,
            PruneConfig(blocks=[1], patch={"kind": "refit"}),
            {"model": ENCODER, "data": {}},
            "patch is for causal",
        ),
        (
            finetune,
            FinetuneConfig(),
            {"model": ENCODER, "teacher": ENCODER},
            "objectives.next_token reads distributions",
        ),
        (finetune, FinetuneConfig(**TAUGHT), {"model": CAUSAL, "teacher": CAUSAL}, "reads vectors of texts"),
        (finetune, FinetuneConfig(**TAUGHT), {"model": ENCODER, "teacher": CAUSAL}, "input teacher is a causal"),
        (finetune, FinetuneConfig(objectives={"similarity_rows": 1}), {"model": ENCODER}, "no input `teacher`"),
        (
            finetune,
            FinetuneConfig(objectives={"similarity_rows": 1}),
            {"model": ENCODER, "teacher": ENCODER},
            "adapt.kind is 'lora'",
        ),
        (evaluate, EvaluateConfig(max_new_tokens=5), {"model": ENCODER, "tasks": {}}, "max_new_tokens is given"),
        (evaluate, EvaluateConfig(), {"model": ENCODER}, "nothing to measure quality on"),
        (merge, MergeConfig(method="linear", params={}), {"base": ENCODER, "students": {}}, "accepted: method fold"),
        (
            quantize,
            QuantizeConfig(limits={"max_kl_nats": 1.0}),
            {"model": {**ENCODER, "format": "onnx"}},
            "limits.kind is 'text', but the input is the graph of an encoder",
        ),
    ],
)
def test_a_causal_method_on_an_encoder_and_the_reverse_are_refused_before_any_work(
    stage: Any, config: Any, inputs: dict[str, Any], message: str
) -> None:
    facts = {slot: (entry,) for slot, entry in {"data": {}, **inputs}.items()}
    if stage in (evaluate, merge) or (stage is prune and config.patch.kind == "none"):
        facts.pop("data")
    with pytest.raises(ValueError, match=message) as refusal:
        stage.forecast(config, facts)
    assert "\n" not in str(refusal.value)


def test_the_kinds_of_a_causal_stage_refuse_an_encoder(encoder: EncoderArtifact, model: ModelArtifact) -> None:
    from attar.pipelines.recipe.mistakes import RecipeError
    from attar.pipelines.recipe.whole import Recipe

    nodes: dict[str, Any] = {
        "original": {"stage": "ingest_model", "config": {"source": "random:bert", "model": {"kind": "encoder"}}},
        "rows": {"stage": "ingest_data", "config": {"source": "jsonl:shipped/everyday.jsonl"}},
        "pruned": {"stage": "prune", "config": {"blocks": [1]}, "inputs": {"model": "original"}},
        "graph": {"stage": "export", "inputs": {"model": "pruned", "data": "rows"}},
    }
    assert Recipe.build("small", nodes).nodes["graph"].inputs["model"] == ("pruned",)
    record = {"stage": "record", "inputs": {"model": "pruned", "data": "rows"}}
    with pytest.raises(RecipeError, match=r"pruned makes encoder; accepted: model"):
        Recipe.build("small", {**nodes, "recorded": record})
    causal = {**nodes, "original": {"stage": "ingest_model", "config": {"source": "random:llama"}}}
    scores = {
        "stage": "register",
        "config": {"name": "x"},
        "inputs": {"model": "graph", "evaluation": "rows", "baseline": "rows"},
    }
    with pytest.raises(RecipeError, match=r"graph makes onnx; accepted: model or encoder"):
        Recipe.build("small", {**causal, "release": scores})
