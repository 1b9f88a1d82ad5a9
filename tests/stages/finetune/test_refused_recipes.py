"""Refused recipes: finetune on objectives made of components: it trains, resumes, and refuses what cannot work when the recipe loads."""

from __future__ import annotations

from typing import Any

import pytest

from attar.pipelines.recipe.whole import RecipeError, build_recipe
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.finetune.stage import finetune

REFUSED = [
    ({"objectives": {"forward_lk": 1.0}}, "unknown objective 'forward_lk'. Did you mean 'forward_kl'?"),
    ({"objectives": {"x": {"divergence": "revers_kl"}}}, "unknown divergence 'revers_kl'. Did you mean 'reverse_kl'?"),
    (
        {"objectives": {"x": {"divergense": "reverse_kl"}}},
        "objective 'x' has no field 'divergense'. Did you mean 'divergence'?",
    ),
    ({"objectives": {"x": {}}}, "objective 'x': divergence is missing. Known: adversarial, alpha"),
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
    (
        {"objectives": {"dparallel": 1.0}},
        "objective 'dparallel' is no loss but a way to train a student that fills masks",
    ),
    (
        {"objectives": {"x": {"divergence": "mask_predict"}}},
        "divergence 'mask_predict' is no loss but a way to train a student that fills masks",
    ),
    (
        {"teacher": "base", "method": "full", "objectives": {"forward_kl": 1.0}},
        "teacher is 'base', the student with its adapters off, but adapt.kind 'full'",
    ),
    (
        {"teacher": "bass", "objectives": {"forward_kl": 1.0}},
        "config.teacher.kind = 'bass': unknown. Known: auto, input, pool, random, recorded, self",
    ),
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
    with pytest.raises(ValueError, match="vocabulary mismatch: model 259, teacher 200 tokens"):
        finetune.forecast(FinetuneConfig(objectives={"forward_kl": 1.0}), {**facts, "teacher": ({"vocab_size": 200},)})
