"""Recipes in the flat form of earlier versions load as the nested ones that they stand for, and are told so in one line."""

from __future__ import annotations

from typing import Any

import pytest

from attar.pipelines.recipe.flat_form import flat_caution
from attar.pipelines.recipe.mistakes import RecipeError
from attar.pipelines.recipe.whole import Recipe, build_recipe, load_recipe
from attar.stages.contract import StageConfig

SOURCES = {
    "original": {"stage": "ingest_model", "config": {"source": "random:llama?num_blocks=4"}},
    "questions": {"stage": "ingest_data", "config": {"source": "reasoning_gym:chain_sum", "max_rows": 8}},
    "weak": {"stage": "ingest_model", "config": {"source": "random:llama?num_blocks=2"}},
}
READS = {"model": "original", "data": "questions"}
# stage, the flat form, the form of today, and the inputs
PAIRS: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (
        "finetune",
        {"method": "dora", "rank": 4, "dropout": 0.1, "adapt_blocks": "after_cut", "num_last_blocks": 3},
        {"adapt": {"kind": "dora", "rank": 4, "dropout": 0.1, "blocks": "after_cut"}},
        READS,
    ),
    ("finetune", {"method": "full", "rank": 4}, {"adapt": {"kind": "full"}}, READS),
    (
        "finetune",
        {"method": "last_blocks", "num_last_blocks": 3},
        {"adapt": {"kind": "last_blocks", "num_blocks": 3}},
        READS,
    ),
    (
        "finetune",
        {"teacher": "live", "teacher_context": {"skill": {"text": "Add."}}, "objectives": {"forward_kl": 1.0}},
        {
            "teacher": {"kind": "self", "rule": {"kind": "live"}, "context": {"kind": "skill", "text": "Add."}},
            "objectives": {"forward_kl": 1.0},
        },
        READS,
    ),
    (
        "finetune",
        {"teacher": {"ema": {"decay": 0.9}}, "past": "previous_epoch", "anchor": {"generation": {"num_epochs": 2}}},
        {
            "teacher": {"kind": "self", "rule": {"kind": "ema", "decay": 0.9}},
            "past": {"kind": "previous_epoch"},
            "anchor": {"kind": "generation", "num_epochs": 2},
        },
        READS,
    ),
    (
        "finetune",
        {"rollout": {"student": {"num_samples": 4}}, "stop_on": "quality", "patience": 0, "eval_every": 5},
        {
            "rollout": {"kind": "student", "num_samples": 4},
            "heldout": {"stop_on": "quality", "patience": 0, "every": 5},
        },
        READS,
    ),
    (
        "finetune",
        {"teacher_context": "reference", "learn_hinted": True, "teacher": "base", "objectives": {"forward_kl": 1.0}},
        {
            "teacher": {"kind": "self", "rule": {"kind": "base"}, "context": {"kind": "reference"}},
            "rollout": {"kind": "data", "both_sides": True},
            "objectives": {"forward_kl": 1.0},
        },
        READS,
    ),
    (
        "finetune",
        {"learn": "all", "num_epochs": 3, "seed": 5, "precision": "float32", "checkpoint_every": 2, "fitted": ""},
        {
            "rows": {"learn": "all"},
            "schedule": {"num_epochs": 3, "seed": 5},
            "compute": {"precision": "float32"},
            "checkpoints": {"every": 2},
        },
        READS,
    ),
    (
        "prune",
        {"blocks": [1], "patch": "linear", "ridge": 0.1, "refit_ridge": 0.7, "num_samples": 4},
        {"blocks": [1], "patch": {"kind": "linear", "ridge": 0.1, "num_samples": 4}},
        READS,
    ),
    (
        "prune",
        {"blocks": [1], "patch": "refit", "ridge": 0.1, "refit_ridge": 0.7},
        {"blocks": [1], "patch": {"kind": "refit", "ridge": 0.7}},
        READS,
    ),
    ("prune", {"blocks": [1], "num_samples": 4}, {"blocks": [1]}, {"model": "original"}),
    (
        "narrow",
        {"ffn_fraction": 0.5, "patch": "refit", "ridge": 0.3, "max_tokens": 8},
        {
            "size": {"ffn_fraction": 0.5},
            "patch": {"kind": "refit", "ridge": 0.3},
            "calibration": {"max_tokens": 8},
        },
        READS,
    ),
    (
        "scan",
        {"num_samples": 4, "tokens": "last", "num_greedy_steps": 2, "protect_last": 1},
        {"calibration": {"num_samples": 4, "tokens": "last"}, "greedy": {"num_steps": 2, "protect_last": 1}},
        READS,
    ),
    (
        "self_data",
        {"max_new_tokens": 9, "num_recorded": 4, "record": "rewrites", "style": "math", "num_free_texts": 2},
        {
            "drawing": {"max_new_tokens": 9},
            "recorded": {"num_candidates": 4, "rows": "rewrites"},
            "prompt": {"style": "math"},
            "free_texts": {"num": 2},
        },
        READS,
    ),
    (
        "curate",
        {"max_characters": 90, "duplicate_threshold": 0.5, "decontaminate": "all", "budget_by": "random"},
        {
            "length": {"max_characters": 90},
            "duplicates": {"threshold": 0.5},
            "contamination": {"rows": "all"},
            "budget": {"by": "random"},
        },
        {"data": "questions"},
    ),
    (
        "ingest_data",
        {"source": "reasoning_gym:chain_sum", "max_rows": 3, "question_field": "q", "answer_form": "text"},
        {"source": "reasoning_gym:chain_sum", "max_rows": 3, "columns": {"question": "q", "answer_form": "text"}},
        {},
    ),
    (
        "guide_data",
        {"unguided": "no_context", "context": "Be brief.", "min_scale": 0.5, "max_new_tokens": 4},
        {
            "unguided": {"kind": "no_context", "context": "Be brief."},
            "scales": {"min": 0.5},
            "drawing": {"max_new_tokens": 4},
        },
        READS,
    ),
    (
        "guide",
        {"training": {"num_epochs": 3, "eval_every": 2}, "num_gate_rows": 4},
        {"training": {"schedule": {"num_epochs": 3}, "heldout": {"every": 2}}, "num_gate_rows": 4},
        READS,
    ),
    ("export", {"opset": 21, "num_prompts": 2}, {"format": {"kind": "onnx", "opset": 21}, "num_prompts": 2}, READS),
]


def recipe(stage: str, config: dict[str, Any], inputs: dict[str, Any]) -> Recipe:
    return build_recipe({"nodes": {**SOURCES, "one": {"stage": stage, "config": config, "inputs": inputs}}})


def config(stage: str, given: dict[str, Any], inputs: dict[str, Any]) -> StageConfig:
    return recipe(stage, given, inputs).nodes["one"].config


@pytest.mark.parametrize(("stage", "flat", "nested", "inputs"), PAIRS, ids=lambda value: str(value)[:30])
def test_a_flat_config_is_the_nested_one(
    stage: str, flat: dict[str, Any], nested: dict[str, Any], inputs: dict[str, Any]
) -> None:
    assert config(stage, flat, inputs) == config(stage, nested, inputs)
    assert recipe(stage, nested, inputs).flat == {}, "today's form is told nothing"


@pytest.mark.parametrize(("stage", "flat", "nested", "inputs"), PAIRS, ids=lambda value: str(value)[:30])
def test_a_config_is_read_back_as_it_was_written(
    stage: str, flat: dict[str, Any], nested: dict[str, Any], inputs: dict[str, Any]
) -> None:
    written = config(stage, nested, inputs)
    assert type(written).model_validate(written.model_dump(mode="json")) == written


def test_one_line_names_the_new_form() -> None:
    loaded = recipe("finetune", {"rank": 4, "num_epochs": 3, "objectives": {"next_token": 1.0}}, READS)
    [line] = flat_caution(loaded.flat)
    assert line == (
        "config of 'one' is in the flat form, which this version still reads and the next does not; "
        "now 'one' says {adapt: {rank: 4}, schedule: {num_epochs: 3}}"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lerning_rate": 1}, "config.lerning_rate: unknown field. Did you mean 'schedule.learning_rate'?"),
        ({"adapt": {"rnk": 1}}, "config.adapt.rnk: unknown field. Did you mean 'rank'?"),
        ({"adapt": {"kind": "lroa"}}, "config.adapt.kind = 'lroa': unknown. Did you mean 'lora'?"),
        ({"adapt": {"kind": "full", "rank": 4}}, "config.adapt.rank: unknown field."),
        ({"method": "lroa"}, "config.adapt.kind = 'lroa': unknown. Did you mean 'lora'?"),
        ({"rank": 0}, "config.adapt.rank is 0; accepted: at least 1"),
        ({"teacher": {"kind": "recorded", "run_once": True}}, "config.teacher.run_once: unknown field."),
        ({"teacher": "leiv"}, "config.teacher.kind = 'leiv': unknown."),
        ({"past": {"kind": "emma"}}, "unknown past 'emma'. Did you mean 'ema'?"),
        ({"rollout": {"kind": "student", "num_sample": 2}}, "Did you mean 'num_samples'?"),
        ({"rollout": {"kind": "student", "both_sides": True}}, "method 'student' has no parameter 'both_sides'."),
        ({"rollout": "student", "learn_hinted": True}, "method 'student' has no parameter 'both_sides'."),
    ],
)
def test_a_wrong_word_is_told_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        recipe("finetune", given, READS)
    [line] = refused.value.lines
    assert line.startswith("node 'one', config") and message in line


def test_fields_are_set_by_their_path_and_by_their_flat_name() -> None:
    loaded = load_recipe("tiny", ["student_a.config.adapt.rank=8", "student_b.config.rank=9"])
    ranks = [loaded.nodes[name].config.model_dump()["adapt"]["rank"] for name in ("student_a", "student_b")]
    assert ranks == [8, 9] and [*loaded.flat] == ["student_b"]
    both = load_recipe("tiny", ["student_a.config.rank=8", "student_a.config.adapt.rank=7"])
    assert both.nodes["student_a"].config.model_dump()["adapt"]["rank"] == 7, "what is set last counts"
    other = load_recipe("tiny", ["student_a.config.adapt={kind: full}", "student_a.config.schedule.num_epochs=1"])
    assert other.nodes["student_a"].config.model_dump()["adapt"]["kind"] == "full"
    within = load_recipe("methods/gkd", ["student.config.rollout.mixed.max_new_tokens=6"])
    assert within.nodes["student"].config.model_dump()["rollout"]["max_new_tokens"] == 6


def test_every_shipped_recipe_is_in_the_form_of_today() -> None:
    from attar.pipelines.recipe.file import shipped_recipes

    assert [name for name in shipped_recipes() if load_recipe(name).flat] == []
