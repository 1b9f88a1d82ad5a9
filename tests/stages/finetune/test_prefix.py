"""Vectors before the prompt through the stages: learned, condensed, measured, written behind; what does not fit is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from attar.pipelines.recipe.mistakes import RecipeError
from attar.pipelines.recipe.plan import make_plan
from attar.pipelines.recipe.whole import Recipe
from attar.registry.artifacts.handles import CompressorArtifact, DatasetArtifact, ModelArtifact, PrefixArtifact
from attar.registry.artifacts.store import Store
from attar.stages.catalogue import STAGES
from attar.stages.contract import NoInputs
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from tests.killed import kill_after_step
from tests.stages.finetune.recovered import curve

CONTEXT = {"kind": "demonstrations", "num_shown": 2}
TRAINING: dict[str, Any] = {
    "adapt": {"kind": "prefix", "num_vectors": 4},
    "objectives": {"forward_kl": 1.0},
    "teacher": {"kind": "self", "rule": {"kind": "base"}, "context": CONTEXT},
    "schedule": {"learning_rate": 0.05, "num_epochs": 6, "tokens_per_step": 512},
    "compute": {"precision": "float32"},
    "heldout": {"every": 4, "patience": 0},
}
COMPRESSOR = {"kind": "compressor", "num_vectors": 4, "num_blocks": 2, "num_sets": 2}


def run(store: Store, stage: str, config: dict[str, Any], **inputs: Any) -> Any:
    kind = STAGES[stage]
    return kind.execute(kind.config_type.model_validate(config), kind.input_type(**inputs), store).artifact


def with_(**changes: Any) -> FinetuneConfig:
    return FinetuneConfig(**TRAINING).with_changes(**changes)


@pytest.fixture(scope="module")
def prefix(shared_store: Store, model: ModelArtifact, questions: DatasetArtifact) -> PrefixArtifact:
    return run(shared_store, "finetune", TRAINING, model=model, data=(questions,))


@pytest.fixture(scope="module")
def compressor(shared_store: Store, model: ModelArtifact, questions: DatasetArtifact) -> CompressorArtifact:
    short = {**TRAINING["schedule"], "learning_rate": 1e-3, "num_epochs": 3}
    return run(
        shared_store, "finetune", {**TRAINING, "adapt": COMPRESSOR, "schedule": short}, model=model, data=(questions,)
    )


def test_a_prefix_says_what_it_stands_for_and_comes_nearer_to_it(prefix: PrefixArtifact, model: ModelArtifact) -> None:
    losses = curve(prefix, "heldout_forward_kl_nats")
    assert min(losses[1:]) < 0.9 * losses[0]
    assert prefix.facts.model_fingerprint == model.fingerprint and prefix.facts.num_demonstrations == 2
    record = json.loads((prefix.path / "demonstrations.json").read_text())
    assert [row["id"] for row in record["demonstrations"]] == list(prefix.facts.demonstrations)
    vectors = load_file(prefix.path / "prefix.safetensors")["vectors"]
    assert vectors.shape == (prefix.facts.num_vectors, prefix.facts.hidden_size) == (4, 64)


def test_evaluate_tells_how_near_and_how_soon_in_torch_and_in_the_graph(
    store: Store, prefix: PrefixArtifact, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    measured = {"max_new_tokens": 4, "num_samples": 0, "precision": "float32", "timing": {"num_prompt_tokens": 8}}
    inputs = {"tasks": (questions,), "prefix": prefix}
    by_torch = run(store, "evaluate", measured, model=model, **inputs)
    figures = json.loads((by_torch.path / "evaluation.json").read_text())["prefix"]
    assert figures["num_questions"] == 3 and figures["num_vectors"] == 4
    behind, alone = (by_torch.facts[name] for name in ("prefix_kl_nats", "no_prefix_kl_nats"))
    assert 0 < behind < alone and by_torch.facts["prefix_gap_closed"] == pytest.approx(1 - behind / alone)
    lengths = {name: spread["num_tokens"] for name, spread in figures["prefill"].items()}
    assert lengths["vectors"] == lengths["none"] + 4 < lengths["demonstrations"]
    assert all(by_torch.facts[f"prefill_seconds_{name}"] > 0 for name in lengths)
    form = {"format": {"kind": "onnx", "takes_prefix": True}, "num_prompts": 1, "num_new_tokens": 8}
    graph = run(store, "export", form, model=model, data=questions)
    assert graph.facts.prefix_model == model.fingerprint
    parity = json.loads((graph.path / "parity.json").read_text())
    assert parity["behind_vectors"]["max_logit_difference"] < 1e-4
    by_graph = run(store, "evaluate", measured, model=graph, **inputs)
    for name in ("prefix_kl_nats", "no_prefix_kl_nats"):
        assert by_graph.facts[name] == pytest.approx(by_torch.facts[name], abs=1e-4)
    with pytest.raises(ValueError, match="the input's graph takes a prefix, which calibration does not give it"):
        run(store, "quantize", {"limits": {"max_kl_nats": 1.0}}, model=graph, data=questions)


def test_answers_are_written_behind_the_vectors(
    store: Store, prefix: PrefixArtifact, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    drawn = {"temperature": 0.0, "max_new_tokens": 6, "keep": "all", "precision": "float32"}
    texts = [
        [
            json.loads(line).get("answer_ids")
            for line in (run(store, "answer", drawn, model=model, data=questions, **given).path / "rows.jsonl").open()
        ]
        for given in ({}, {"prefix": prefix})
    ]
    assert texts[0] != texts[1]


def test_a_compressor_condenses_demonstrations_that_it_did_not_see(
    store: Store, compressor: CompressorArtifact, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    losses = curve(compressor, "heldout_forward_kl_nats")
    assert min(losses[1:]) < losses[0]
    few, more = (
        run(
            store,
            "condense",
            {"num_shown": count, "precision": "float32"},
            model=model,
            compressor=compressor,
            data=questions,
        )
        for count in (1, 5)
    )
    assert few.facts.num_vectors == more.facts.num_vectors == 4
    assert few.facts.num_demonstration_tokens < more.facts.num_demonstration_tokens
    assert more.facts.compressor == compressor.fingerprint and len(more.facts.demonstrations) == 5


def test_a_second_stage_begins_where_the_first_ended(
    store: Store, compressor: CompressorArtifact, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    config = {**TRAINING, "adapt": COMPRESSOR, "objectives": {"next_token": 1.0, "forward_kl": 1.0}}
    config["schedule"] = {**TRAINING["schedule"], "learning_rate": 1e-4, "max_steps": 2}
    second = run(store, "finetune", config, model=model, data=(questions,), start=compressor)
    first_losses, losses = (curve(made, "heldout_forward_kl_nats") for made in (compressor, second))
    assert losses[0] == pytest.approx(min(first_losses), rel=1e-4) and second.facts.start == compressor.fingerprint
    other = {**config, "adapt": {**COMPRESSOR, "num_vectors": 3}}
    with pytest.raises(ValueError, match="start: a compressor of 4 vectors and 2 blocks does not fit this one"):
        run(store, "finetune", other, model=model, data=(questions,), start=compressor)


def test_plain_text_is_its_own_demonstration(store: Store, model: ModelArtifact, prose: DatasetArtifact) -> None:
    config = {**TRAINING, "adapt": COMPRESSOR, "rows": {"max_tokens": 64}}
    config["schedule"] = {**TRAINING["schedule"], "max_steps": 2}
    made = run(store, "finetune", config, model=model, data=(prose,))
    assert made.facts.num_steps == 2
    with pytest.raises(
        ValueError, match="the data has plain text, and vectors of one set of demonstrations are learned of"
    ):
        run(store, "finetune", TRAINING, model=model, data=(prose,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapt": {"kind": "prefix", "num_vectors": 0}}, "greater than or equal to 1"),
        (
            {"teacher": {"kind": "self", "rule": {"kind": "base"}}},
            "teacher.context tells the teacher none; accepted: {kind: demonstrations}",
        ),
        ({"rollout": {"kind": "student"}}, "rollout.kind is another than 'data', but adapt.kind is 'prefix'"),
        ({"heldout": {"stop_on": "quality"}}, "heldout.stop_on is 'quality', but adapt.kind is 'prefix'"),
        ({"rows": {"learn": "all"}}, "rows.learn is 'all', but adapt.kind is 'prefix'"),
        ({"compute": {"num_shards": 2}}, "compute.num_shards is 2, but there is adapt.kind 'prefix'"),
    ],
)
def test_what_vectors_cannot_be_learned_from_is_refused_in_a_line(changes: dict[str, Any], message: str) -> None:
    given = {**TRAINING, **changes}
    with pytest.raises(ValidationError) as raised:
        FinetuneConfig(**given)
    assert message in str(raised.value)


def plan(store: Store, **nodes: dict[str, Any]) -> Any:
    return make_plan(Recipe.build("refused", nodes), store)


def test_a_plan_refuses_what_does_not_fit(store: Store, tmp_path: Path) -> None:
    """A causal method on an encoder, a loss of encoders here, a prefix of another shape, a graph without the input, blocks that are not there."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"question": f"Is it {n}?", "answer": "yes"}) for n in range(8)))

    def node(stage: str, config: dict[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
        return {"stage": stage, "config": config or {}, "inputs": inputs}

    nodes = {
        "words": node("ingest_data", {"source": f"jsonl:{rows}", "heldout_fraction": 0.25}),
        "small": node("ingest_model", {"source": "random:llama?num_blocks=2&hidden_size=32"}),
        "sentences": node(
            "ingest_model",
            {"source": "random:bert?num_blocks=2&hidden_size=32", "model": {"kind": "encoder", "max_tokens": 64}},
        ),
        "learned": node("finetune", TRAINING, model="small", data=["words"]),
    }
    refused = {
        "adapt.kind is 'prefix', vectors before the prompt of a causal language model, and the model is an encoder": node(
            "finetune", TRAINING, model="sentences", data=["words"]
        ),
        "reads vectors of texts, and the model is a causal language model; accepted: an encoder": node(
            "finetune",
            {**TRAINING, "objectives": {"rows": {"divergence": "similarity_rows"}}},
            model="small",
            data=["words"],
        ),
        "prefix: vectors stand before a prompt, and the model is an encoder": node(
            "evaluate", model="sentences", tasks=["words"], prefix="learned"
        ),
        "the node has an input `start`, but adapt.kind is 'prefix'": node(
            "finetune", TRAINING, model="small", data=["words"], start="made"
        ),
    }
    nodes["made"] = node(
        "finetune", {**TRAINING, "adapt": {**COMPRESSOR, "num_blocks": 1}}, model="small", data=["words"]
    )
    for message, other in refused.items():
        with pytest.raises(RecipeError) as raised:
            plan(store, **nodes, wrong=other)
        assert message in str(raised.value), str(raised.value)
    graph = {"model": ({"format": "onnx", "vocab_size": 259},), "tasks": ({},), "prefix": ({"vocab_size": 259},)}
    with pytest.raises(
        ValueError, match="^prefix: the graph has no input for vectors; export it with format.takes_prefix"
    ):
        STAGES["evaluate"].forecast(STAGES["evaluate"].config_type(), graph)


def test_a_plan_refuses_a_prefix_of_another_model_where_both_are_made(
    shared_store: Store, prefix: PrefixArtifact, model: ModelArtifact, session_folder: Path
) -> None:
    """The same shape, but other weights: nothing but the fingerprint tells."""
    source = "random:llama?num_blocks=4&hidden_size=64&seed="
    ingest_model.execute(IngestModelConfig(source=f"{source}1"), NoInputs(), shared_store)
    sums = {"source": f"jsonl:{session_folder / 'sums.jsonl'}", "heldout_fraction": 0.25}
    nodes = {
        "original": {"stage": "ingest_model", "config": {"source": f"{source}0"}},
        "other": {"stage": "ingest_model", "config": {"source": f"{source}1"}},
        "sums": {"stage": "ingest_data", "config": sums},
        "learned": {"stage": "finetune", "config": TRAINING, "inputs": {"model": "original", "data": ["sums"]}},
        "right": {"stage": "answer", "inputs": {"model": "original", "data": "sums", "prefix": "learned"}},
    }
    assert [node.state for node in plan(shared_store, **nodes)] == ["hit"] * 4 + ["miss"]
    wrong = {"stage": "answer", "inputs": {"model": "other", "data": "sums", "prefix": "learned"}}
    with pytest.raises(RecipeError, match=f"^node 'wrong': prefix: made for the model {model.fingerprint[:12]}, and"):
        plan(shared_store, **nodes, wrong=wrong)


def test_demonstrations_longer_than_the_model_reads_and_too_few_of_them_are_refused_before_any_work(
    model: ModelArtifact, questions: DatasetArtifact, tmp_path: Path
) -> None:
    folder = shutil.copytree(model.path, tmp_path / "short")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "max_position_embeddings": 90}))
    short = ModelArtifact(folder, model.facts, "short", model.fingerprint)
    refusal = (
        r"^teacher\.context: with its demonstrations a row has \d+ tokens, and the model reads 90; accepted: fewer of"
    )
    with pytest.raises(ValueError, match=refusal):
        finetune.check(FinetuneConfig(**TRAINING), FinetuneInputs(model=short, data=(questions,)))
    many = with_(teacher={**TRAINING["teacher"], "context": {"kind": "demonstrations", "num_shown": 10}})
    with pytest.raises(
        ValueError, match=r"data 1 has 7 training questions, and teacher.context shows 10; accepted: at"
    ):
        finetune.check(many, FinetuneInputs(model=model, data=(questions,)))


@pytest.mark.slow
def test_a_training_that_is_killed_ends_with_the_same_vectors(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: ModelArtifact,
    questions: DatasetArtifact,
    prefix: PrefixArtifact,
) -> None:
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path / "home"))
    store, inputs = Store(tmp_path / "home"), FinetuneInputs(model=model, data=(questions,))
    config = with_(checkpoints={"every": 1})
    kill_after_step(lambda: finetune.execute(config, inputs, store), tmp_path / "home", 3)
    resumed = finetune.execute(config, inputs, store).artifact
    vectors = [load_file(made.path / "prefix.safetensors")["vectors"] for made in (resumed, prefix)]
    assert torch.equal(*vectors)
