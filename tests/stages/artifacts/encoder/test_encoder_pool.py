"""A pool of encoders as teachers: who makes the two texts of a row alike weighs most, and the student comes nearer to it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attar.registry.artifacts.handles import DatasetArtifact, EncoderArtifact
from attar.registry.artifacts.store import Store
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from tests.stages.artifacts.encoder.conftest import encoder_of
from tests.stages.artifacts.encoder.test_encoder_exits import PAIRED, learned
from tests.stages.artifacts.encoder.test_encoder_stages import CAUSAL, ENCODER, TAUGHT, cut

POOL: dict[str, Any] = {
    **TAUGHT,
    "objectives": {"similarity_rows": 1.0},
    "teacher": {"kind": "pool", "power": 9.0},
    "schedule": {"max_steps": 6, "learning_rate": 3e-3, "tokens_per_step": 512},
    "heldout": {"every": 6},
}


def pool_run(
    store: Store, model: Any, data: DatasetArtifact, teachers: tuple[Any, ...], **changes: Any
) -> dict[str, list[float]]:
    given = FinetuneInputs(model=model, data=(data,), teachers=teachers)
    artifact = finetune.execute(FinetuneConfig(**{**POOL, **changes}), given, store).artifact
    curves: dict[str, list[float]] = {"bytes": list((artifact.path / "weights.safetensors").read_bytes()[-4096:])}
    for line in (artifact.path / "records" / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        curves.setdefault(entry["name"], []).append(entry["value"])
    return curves


@pytest.mark.parametrize("similarity", ["cka", "parc"])
def test_the_teacher_that_knows_the_pairs_weighs_most(
    store: Store, shared_store: Store, encoder: EncoderArtifact, code: DatasetArtifact, similarity: str
) -> None:
    """One has learned the very pairs, one is random and of another width, one is the start."""
    plain = {**PAIRED, "adapt": {"kind": "full"}}
    knows = learned(shared_store, encoder, code, plain)
    other = encoder_of(store, "random:bert?num_blocks=2&hidden_size=32&seed=5", is_normalized=True, max_tokens=128)
    student = cut(store, encoder, blocks=[1, 2])
    teacher = {"kind": "pool", "similarity": similarity, "power": 9.0}
    curves = pool_run(store, student, code, (other, knows, encoder), teacher=teacher)
    weights = [curves[f"weight_teacher_{number}"][0] for number in (1, 2, 3)]
    assert sum(weights) == pytest.approx(1.0) and weights[1] == max(weights)
    losses = curves["heldout_similarity_rows_teacher_2_nats"]
    assert min(losses) < losses[0]


def test_the_nearest_of_a_pool_teaches_as_it_does_alone(
    store: Store, encoder: EncoderArtifact, code: DatasetArtifact
) -> None:
    student = cut(store, encoder, blocks=[3])
    other = encoder_of(store, "random:bert?num_blocks=2&hidden_size=64&seed=5", max_tokens=128)
    nearest = pool_run(store, student, code, (other, encoder), teacher={"kind": "pool", "power": None})
    weights = [nearest[f"weight_teacher_{number}"][0] for number in (1, 2)]
    assert sorted(weights) == [0.0, 1.0]
    teacher = (other, encoder)[weights.index(1.0)]
    config = FinetuneConfig(**{**POOL, "teacher": {"kind": "input", "run_once": True}})
    given = FinetuneInputs(model=student, data=(code,), teacher=teacher)
    alone = finetune.execute(config, given, store).artifact
    assert nearest["bytes"] == list((alone.path / "weights.safetensors").read_bytes()[-4096:])
    steep = pool_run(store, student, code, (other, encoder), teacher={"kind": "pool", "power": 1e5})
    assert steep["bytes"] == nearest["bytes"]


@pytest.mark.parametrize(
    ("changes", "model", "teachers", "message"),
    [
        ({}, ENCODER, (ENCODER,), "the input `teachers` has 1 models to choose among; accepted: two or more"),
        ({}, ENCODER, (), "the input `teachers` has 0 models"),
        (
            {"teacher": {"kind": "auto"}},
            ENCODER,
            (ENCODER,) * 2,
            "teacher.kind is 'auto', but the node has an input `teachers`",
        ),
        ({}, ENCODER, (ENCODER, CAUSAL), "input teachers is a causal language model"),
        ({}, CAUSAL, (CAUSAL,) * 2, "reads vectors of texts"),
        ({"objectives": {"pair_distance": 1.0}}, ENCODER, (ENCODER,) * 2, "no objective reads a teacher"),
        (
            {"objectives": {"token_distance": 1.0}},
            ENCODER,
            (ENCODER,) * 2,
            "reads more than what each teacher of a pool says",
        ),
    ],
)
def test_a_pool_that_cannot_teach_is_refused_ahead(
    changes: dict[str, Any], model: dict[str, Any], teachers: tuple[Any, ...], message: str
) -> None:
    inputs = {"model": (model,), "data": ({},), **({"teachers": teachers} if teachers else {})}
    with pytest.raises(ValueError, match=message) as refused:
        finetune.forecast(FinetuneConfig(**{**POOL, **changes}), inputs)
    assert "\n" not in str(refused.value)
