"""finetune on objectives made of components: it trains, resumes, and refuses what cannot work when the recipe loads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attar.pipelines.recipe.whole import RecipeError, build_recipe
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


REFUSED = [
    ({"objectives": {"forward_lk": 1.0}}, "unknown objective 'forward_lk'. Did you mean 'forward_kl'?"),
    ({"objectives": {"x": {"divergence": "revers_kl"}}}, "unknown divergence 'revers_kl'. Did you mean 'reverse_kl'?"),
    (
        {"objectives": {"x": {"divergense": "reverse_kl"}}},
        "objective 'x' has no field 'divergense'. Did you mean 'divergence'?",
    ),
    ({"objectives": {"x": {}}}, "objective 'x': divergence is missing. Known: alpha, anchored_listwise"),
    (
        {"objectives": {"x": {"divergence": {"jensen_shannon": {"bta": 0.5}}}}},
        "divergence 'jensen_shannon': method 'jensen_shannon' has no parameter 'bta'",
    ),
    (
        {"objectives": {"x": {"divergence": {"jensen_shannon": {"beta": 0.0}}}}},
        "beta is 0.0, where the divergence is 0 between any two",
    ),
    (
        {"objectives": {"x": {"divergence": "reverse_kl", "target": {"identity": {"of": "labels"}}}}},
        "ReverseKL is infinite toward labels",
    ),
    (
        {"objectives": {"x": {"divergence": "forward_kl", "target": "temper"}}},
        "target 'temper': missing 1 required keyword-only argument: 'temperature'",
    ),
    (
        {"objectives": {"x": {"divergence": "forward_kl", "target": {"identity": {"of": "past"}}}}},
        "objective 'x' reads past, but past is 'none'",
    ),
    (
        {"objectives": {"x": {"divergence": "clipped_ratio"}}},
        "is a policy loss: it needs a rollout and a verifier's reward; rollout is 'data'",
    ),
    ({"objectives": {"x": {"divergence": "k3"}}}, "is an expectation over tokens that a policy drew"),
    ({"objectives": {"x": {"divergence": "k3"}}, "rollout": {"mixed": {}}}, "accepted: rollout student, or teacher"),
    (
        {"objectives": {"x": {"divergence": "k3"}}, "teacher": "live", "rollout": {"student": {"temperature": 0.7}}},
        "temperature and top_p are 0.7 and 1.0; accepted: 1 and 1",
    ),
    (
        {"objectives": {"x": {"divergence": "anchored_listwise"}}, "rollout": "student"},
        "accepted: num_samples of 2 or more",
    ),
    ({"objectives": {"dparallel": 1.0}}, "objective 'dparallel' needs a student that fills masks and sees both sides"),
    (
        {"objectives": {"x": {"divergence": "mask_predict"}}},
        "divergence 'mask_predict' needs a student that fills masks",
    ),
    (
        {"teacher": "base", "method": "full", "objectives": {"forward_kl": 1.0}},
        "teacher is 'base', the student with its adapters off, but method 'full'",
    ),
    ({"teacher": "bass", "objectives": {"forward_kl": 1.0}}, "teacher = 'bass': unknown source. Did you mean 'base'?"),
    (
        {"teacher_context": "sibling", "teacher": "live", "objectives": {"forward_kl": 1.0}},
        "teacher_context tells of written answers, but rollout is 'data'",
    ),
    (
        {
            "objectives": {
                "x": {
                    "divergence": "forward_kl",
                    "schedule": {"linear_ramp": {"parameter": "target.share", "end": 1.0}},
                }
            }
        },
        "parameter 'share' is not there",
    ),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_what_cannot_work_is_refused_in_one_line_when_the_recipe_loads(config: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        build_recipe(recipe(config))
    assert (
        message in str(refused.value)
        and "\n" not in str(refused.value)
        and str(refused.value).startswith("node 'student'")
    )


def recipe(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "nodes": {
            "original": {"stage": "ingest_model", "config": {"source": "random:llama"}},
            "data": {"stage": "ingest_data", "config": {"source": "reasoning_gym:chain_sum", "max_rows": 8}},
            "student": {"stage": "finetune", "config": config, "inputs": {"model": "original", "data": "data"}},
        }
    }


FORECASTS = [
    (
        {"objectives": {"x": {"divergence": "squared_error"}}},
        {"num_recorded": 16},
        "needs the teacher's whole distribution, but 16 of 259 tokens are recorded",
    ),
    (
        {"objectives": {"x": {"divergence": "forward_kl", "token_weight": "gate"}}},
        {"num_recorded": 16},
        "needs the teacher's whole distribution",
    ),
    (
        {"objectives": {"x": {"divergence": "forward_kl"}}, "teacher_context": "reference"},
        {"num_recorded": 16},
        "teacher_context is for a live teacher",
    ),
    (
        {"objectives": {"x": {"divergence": "forward_kl"}}},
        {"num_recorded": 0},
        "objectives.x: no data set has a recorded teacher",
    ),
    (
        {"objectives": {"forward_kl": 1.0}, "teacher": "input"},
        {},
        "teacher is 'input', but the node has no input `teacher`",
    ),
]


@pytest.mark.parametrize(("config", "data", "message"), FORECASTS)
def test_what_the_inputs_do_not_have_is_refused_before_anything_runs(
    config: dict[str, Any], data: dict[str, int], message: str
) -> None:
    facts = {"model": ({"vocab_size": 259, "num_parameters": 1},), "data": ({"vocab_size": 259, **data},)}
    with pytest.raises(ValueError) as refused:
        finetune.forecast(FinetuneConfig(**config), facts)
    assert message in str(refused.value)
    # with a live teacher of the same vocabulary each of the first two would do, with another one none
    with pytest.raises(ValueError, match="vocabulary mismatch: model 259, teacher 512 tokens"):
        finetune.forecast(FinetuneConfig(objectives={"forward_kl": 1.0}), {**facts, "teacher": ({"vocab_size": 512},)})
