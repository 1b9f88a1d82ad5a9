"""A causal model that learns to fill masks, through the stages: learned, merged, measured; what writes from left to right refuses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.compressors.masked.form import CONFIG_KEY
from attar.pipelines.recipe.mistakes import RecipeError
from attar.pipelines.recipe.plan import make_plan
from attar.pipelines.recipe.whole import Recipe
from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import folder_facts
from attar.stages.catalogue import STAGES
from tests.killed import kill_after_step
from tests.stages.finetune.recovered import curve, weights

MASKS = {"token": "<|endoftext|>", "block_size": 8}
TRAINING: dict[str, Any] = {
    "adapt": {"kind": "full"},
    "rows": {"masks": MASKS},
    "schedule": {"learning_rate": 3e-3, "num_epochs": 4, "tokens_per_step": 256},
    "compute": {"precision": "float32"},
    "heldout": {"every": 4, "patience": 0},
}


def run(store: Store, stage: str, config: dict[str, Any], **inputs: Any) -> Any:
    kind = STAGES[stage]
    return kind.execute(kind.config_type.model_validate(config), kind.input_type(**inputs), store).artifact


@pytest.fixture(scope="module")
def lesson(shared_store: Store, model: ModelArtifact, questions: DatasetArtifact) -> AdapterArtifact:
    return run(shared_store, "finetune", TRAINING, model=model, data=(questions,))


@pytest.fixture(scope="module")
def filler(shared_store: Store, model: ModelArtifact, lesson: AdapterArtifact) -> ModelArtifact:
    return run(shared_store, "merge", {}, base=model, students=(lesson,))


def test_a_folder_says_how_it_fills_masks_and_learning_lowers_the_loss(
    lesson: AdapterArtifact, filler: ModelArtifact
) -> None:
    losses = curve(lesson, "heldout_next_token_nats")
    assert min(losses[1:]) < 0.9 * losses[0]
    for facts in (lesson.facts, filler.facts, folder_facts(filler.path)):
        assert (facts["mask_token"], facts["mask_block_size"]) == ("<|endoftext|>", 8)
    entry = json.loads((filler.path / "config.json").read_text())[CONFIG_KEY]
    assert entry == {"mask_token": "<|endoftext|>", "mask_token_id": 0, "block_size": 8}


def test_evaluate_counts_passes_and_a_second_training_goes_on(
    store: Store, model: ModelArtifact, filler: ModelArtifact, questions: DatasetArtifact
) -> None:
    measured = {"max_new_tokens": 16, "num_samples": 1, "precision": "float32"}
    one_a_pass = {**measured, "timing": {"fills": {"kind": "entropy", "max_nats": 0.0}}}
    slow = run(store, "evaluate", one_a_pass, model=filler, tasks=(questions,))
    many_a_pass = {**measured, "timing": {"fills": {"kind": "probability", "min_probability": 0.0}}}
    fast = run(store, "evaluate", many_a_pass, model=filler, tasks=(questions,), beside=model)
    assert slow.facts["tokens_per_forward"] <= 1 < fast.facts["tokens_per_forward"]
    assert fast.facts["forwards_per_text"] <= 2 and fast.facts["text_seconds"] > 0
    content = json.loads((fast.path / "evaluation.json").read_text())
    assert content["num_rows"] == {"sums": 3} and len(content["samples"]) == 1
    assert content["latency"]["beside"]["model_fingerprint"] == model.fingerprint
    certain = {"divergence": "student_entropy", "temperature": 0.5, "token_weight": "correct", "weight": 8.0}
    second = {
        **TRAINING,
        "adapt": {"kind": "lora"},
        "rows": {"masks": {**MASKS, "hide": {"kind": "complements"}}},
        "objectives": {"next_token": 1.0, "certainty": certain},
        "schedule": {**TRAINING["schedule"], "max_steps": 2},
    }
    student = run(store, "finetune", second, model=filler, data=(questions,))
    healed = run(store, "merge", {}, base=filler, students=(student,))
    assert healed.facts.mask_block_size == 8 and folder_facts(healed.path)["mask_token"] == "<|endoftext|>"


def test_a_killed_training_ends_with_the_same_weights(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: ModelArtifact,
    questions: DatasetArtifact,
    lesson: AdapterArtifact,
) -> None:
    """What a step hides is drawn by the step alone, whatever was drawn before the kill."""
    home = tmp_path / "home"
    monkeypatch.setenv("ATTAR_HOME", str(home))
    store, config = Store(home), {**TRAINING, "checkpoints": {"every": 1}}

    def train() -> AdapterArtifact:
        return run(store, "finetune", config, model=model, data=(questions,))

    killed_at = kill_after_step(train, home, min_step=2)
    resumed = train()
    assert 2 <= killed_at < resumed.facts.num_steps
    whole, again = weights(lesson), weights(resumed)
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def refusal(store: Store, nodes: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as raised:
        make_plan(Recipe.build("refused", nodes), store)
    return str(raised.value)


def test_a_plan_refuses_what_does_not_fit(store: Store, tmp_path: Path) -> None:
    """Stages that write from left to right, a training that would undo it, teachers and rollouts, other masks, an encoder, choices of others."""
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
        "plain": node("finetune", {**TRAINING, "rows": {}}, model="small", data=["words"]),
        "filler": node("merge", base="small", students=["learned"]),
    }

    def again(model: str = "filler", **changes: Any) -> dict[str, Any]:
        inputs = {name: changes.pop(name) for name in ("teacher",) if name in changes}
        return node("finetune", {**TRAINING, **changes}, model=model, data=["words"], **inputs)

    left_to_right = "fills masks, and here a model writes from left to right"
    refused = {
        f"input model {left_to_right}": node("prune", {"blocks": [0]}, model="filler"),
        f"input teacher {left_to_right}": again("small", rows={}, objectives={"forward_kl": 1.0}, teacher="filler"),
        "rows.masks is null, but the model fills masks": again(rows={}),
        "but the model fills '<|endoftext|>' in blocks of 8; accepted: the same": again(
            rows={"masks": {**MASKS, "block_size": 4}}
        ),
        "rows.masks is for causal language models that learn to fill masks, and the model is an encoder": again(
            "sentences"
        ),
        "the node has a live teacher, which reads what the student is to fill in, but": again(
            objectives={"forward_kl": 1.0}, teacher="small"
        ),
        "rollout.kind is another than 'data', but rows.masks": again(rollout={"kind": "student"}),
        "adapt.kind is 'quantization_aware', but rows.masks": again(adapt={"kind": "quantization_aware"}),
        "students: the masks that they fill are blocks of 8 with '<|endoftext|>', none; accepted: the same of all": node(
            "merge", {"method": "linear"}, base="small", students=["learned", "plain"]
        ),
        "input text is for a model that writes from left to right": node("evaluate", model="filler", text="words"),
        "perplexity_window is given, but the model fills masks": node(
            "evaluate", {"perplexity_window": 64}, model="filler", tasks=["words"]
        ),
        "timing.fills is given, but the model fills no masks": node(
            "evaluate", {"timing": {"fills": {"kind": "entropy", "max_nats": 0.1}}}, model="small", tasks=["words"]
        ),
    }
    for message, given in refused.items():
        line = refusal(store, {**nodes, "refused": given})
        assert message in line and "\n" not in line, (message, line)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (
            "<mask>",
            "rows.masks.token is '<mask>', which is no token of the tokenizer; accepted: one that no text has, such as",
        ),
        ("<|im_end|>", "rows.masks.token is '<|im_end|>', which ends a text"),
        ("<|im_start|>", "rows.masks.token is '<|im_start|>', which row"),
    ],
)
def test_a_token_that_cannot_hide_is_refused(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, token: str, message: str
) -> None:
    with pytest.raises(ValueError) as raised:
        run(store, "finetune", {**TRAINING, "rows": {"masks": {"token": token}}}, model=model, data=(questions,))
    assert message in str(raised.value)
