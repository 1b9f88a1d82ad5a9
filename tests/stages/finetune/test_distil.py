"""finetune on objectives made of components: it trains, resumes, and refuses what cannot work when the recipe loads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.runtime.progress import Metric, listen

BASE = {
    "rank": 4,
    "num_epochs": 3,
    "learning_rate": 5e-3,
    "tokens_per_step": 256,
    "tokens_per_micro_batch": 256,
    "eval_every": 2,
    "patience": 0,
    "precision": "float32",
}


def train(
    store: Store, model: ModelArtifact, data: DatasetArtifact, config: dict[str, Any], **inputs: ModelArtifact
) -> tuple[AdapterArtifact, dict[str, list[float]]]:
    curves: dict[str, list[float]] = {}

    def keep(event: object) -> None:
        if isinstance(event, Metric):
            curves.setdefault(event.name, []).append(event.value)

    with listen(keep):
        adapter = finetune.execute(
            FinetuneConfig(**{**BASE, **config}), FinetuneInputs(model=model, data=(data,), **inputs), store
        ).artifact
    return adapter, curves


@pytest.fixture(scope="module")
def other(shared_store: Store) -> ModelArtifact:
    """Another random Llama: a teacher that says something else."""
    config = IngestModelConfig(source="random:llama?num_blocks=2&hidden_size=64&seed=1")
    return ingest_model.execute(config, NoInputs(), shared_store).artifact


@pytest.mark.parametrize(
    ("name", "config"),
    [
        (
            "jsd",
            {
                "objectives": {
                    "jsd": {
                        "divergence": {"jensen_shannon": {"beta": 0.3}},
                        "token_weight": ["gate", {"clip": {"limit_nats": 9.0}}],
                    }
                }
            },
        ),
        (
            "reverse",
            {
                "objectives": {
                    "reverse": {
                        "divergence": "reverse_kl",
                        "schedule": {"linear_ramp": {"parameter": "weight", "end": 1.0, "by": "step"}},
                    }
                }
            },
        ),
        (
            "soft",
            {
                "objectives": {
                    "soft": {
                        "divergence": "forward_kl",
                        "target": {"temper": {"temperature": 2.0}},
                        "token_weight": "entropy",
                    }
                }
            },
        ),
        (
            "geo",
            {
                "anchor": "base",
                "objectives": {"geo": {"divergence": "forward_kl", "target": {"geometric_mix": {"share": 0.4}}}},
            },
        ),
    ],
)
def test_objectives_of_components_come_down_on_heldout_rows(
    name: str,
    config: dict[str, Any],
    store: Store,
    model: ModelArtifact,
    questions: DatasetArtifact,
    other: ModelArtifact,
) -> None:
    _, curves = train(store, model, questions, config, teacher=other)
    heldout = curves[f"heldout_{name}_nats"]
    assert heldout[-1] < 0.9 * heldout[0], heldout


def test_past_self_labels_and_a_ramp(store: Store, model: ModelArtifact, questions: DatasetArtifact) -> None:
    """PS-KD's components: labels mixed with the previous epoch's self, more and more of it."""
    ramp = {"linear_ramp": {"parameter": "target.share", "start": 1.0, "end": 0.2}}
    target = {"mix": {"share": 1.0, "first": "labels", "second": "past"}}
    config = {
        "past": "previous_epoch",
        "objectives": {"pskd": {"divergence": "cross_entropy", "target": target, "schedule": ramp}},
    }
    adapter, curves = train(store, model, questions, config)
    assert curves["train_pskd_nats"][0] > curves["train_pskd_nats"][-1] and adapter.facts["num_steps"] == len(
        curves["train_pskd_nats"]
    )


def test_answers_weigh_by_how_much_the_teacher_would_say_them(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, other: ModelArtifact
) -> None:
    """DASD's components: with the student itself as the teacher no sentence is the teacher's, so nothing is learned."""
    components = {
        "divergence": "cross_entropy",
        "target": {"identity": {"of": "labels"}},
        "sample_weight": "divergence_aware",
    }
    config = {"objectives": {"das": components, "kl": {"divergence": "forward_kl"}}}
    _, curves = train(store, model, questions, config, teacher=other)
    _, own = train(store, model, questions, config, teacher=model)
    # later steps drift: Adam divides rounding by its own size
    assert max(own["train_das_nats"]) == 0.0 and own["train_kl_nats"][0] < 1e-5
    assert min(curves["train_das_nats"]) >= 0.0


def test_a_student_teaches_itself_with_a_solution_in_view(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    """OPSD's components: the student writes, its base reads the solution and teaches."""
    config = {
        "objectives": {"jsd": {"divergence": "jensen_shannon"}},
        "teacher": "base",
        "teacher_context": "reference",
        "rollout": {"student": {"max_new_tokens": 6}},
        "max_steps": 3,
    }
    _, curves = train(store, model, questions, config)
    assert (
        len(curves["rollout_tokens"]) == 3 and 1 <= min(curves["rollout_tokens"]) <= max(curves["rollout_tokens"]) <= 6
    )
    assert all(value > 0 for value in curves["train_jsd_nats"])


def test_a_policy_is_trained_on_rewards_with_its_wrong_answers_taught(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    """SRPO's components: two routes of the same rollouts, one denominator."""
    config = {
        "objectives": {
            "gain": {"divergence": {"clipped_ratio": {"clip_high": 0.28}}, "route": "correct"},
            "taught": {"divergence": "reverse_kl", "token_weight": "entropy", "route": "wrong"},
        },
        "teacher": {"ema": {"decay": 0.9}},
        "teacher_context": "sibling",
        "rollout": {"student": {"num_samples": 4, "max_new_tokens": 4}},
        "max_steps": 2,
    }
    adapter, curves = train(store, model, questions, config)
    assert {"train_gain_nats", "train_taught_nats", "rollout_reward", "rollout_correct"} <= curves.keys()
    again, _ = train(Store(store.root / "again"), model, questions, config)
    assert adapter.fingerprint == again.fingerprint, "rollouts are drawn by the seed"


def test_policy_losses_without_a_verifier_are_refused(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, tmp_path: Any
) -> None:
    import shutil

    folder = tmp_path / "unjudged"
    shutil.copytree(questions.path, folder)
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    (folder / "rows.jsonl").write_text(
        "\n".join(json.dumps({k: v for k, v in row.items() if k != "verifier"}) for row in rows) + "\n"
    )
    data = DatasetArtifact(folder, questions.facts, "unjudged", "unjudged")
    config = {"objectives": {"gain": {"divergence": "clipped_ratio"}}, "rollout": {"student": {"num_samples": 2}}}
    with pytest.raises(
        ValueError, match=r"a policy loss needs a verifier, but rows .* have none; set `verifier` in ingest_data"
    ):
        finetune.run(FinetuneConfig(**{**BASE, **config}), FinetuneInputs(model=model, data=(data,)), tmp_path / "work")
