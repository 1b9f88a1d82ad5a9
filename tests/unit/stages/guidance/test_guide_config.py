"""What guidance refuses while the recipe loads: one line with field, value and what is accepted."""

from __future__ import annotations

from typing import Any

import pytest

from attar.compressors.guidance.branches import WeakModel
from attar.registry.artifacts.facts import Facts
from attar.stages.guidance.config import GuideConfig
from attar.stages.guidance.data.config import GuideDataConfig, ScalesConfig
from attar.stages.guidance.data.stage import guide_data
from attar.stages.guidance.fold import check_guidance_fold
from attar.stages.guidance.stage import guide

MODEL: Facts = {"vocab_size": 259, "num_blocks": 4, "hidden_size": 64, "num_parameters": 1000}
DRAWN: Facts = {"num_rows": 8, "min_scale": 1.0, "max_scale": 3.0, "unseen_scale": 0.0, "unguided": "no_prompt"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unguided": {"kind": "negative_prompt"}}, "missing 1 required keyword-only argument: 'prompt'"),
        ({"unguided": {"prompt": "no"}}, "method 'no_prompt' has no parameter 'prompt'"),
        ({"negative_prompt": "no"}, "method 'no_prompt' has no parameter 'prompt'"),
        ({"unguided": {"kind": "no_context"}}, "give context or context_end"),
        ({"context_end": "Q:"}, "method 'no_prompt' has no parameter 'context_end'"),
        ({"scales": {"min": 4.0}}, "scales.min 4 is above scales.max 3"),
        (
            {"scales": {"unseen": 2.95}},
            "scales.unseen 2.95 with its margin 0.15 must lie between scales.min 1 and scales.max 3",
        ),
        ({"drawing": {"temperature": 0.0}}, "greater than 0"),
        ({"unguided": "no_promt"}, "no_prompt"),
    ],
)
def test_draws_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuideDataConfig(**changes)


def test_scales_are_spread_over_the_range_without_the_unseen_part() -> None:
    config = ScalesConfig(min=1.0, max=3.0, unseen=2.0, margin=0.5)
    assert [config.at(u) for u in (0.0, 0.25, 0.75)] == pytest.approx([1.0, 1.25 + 0.0, 2.75])
    assert config.at(0.4999) == pytest.approx(1.4999, abs=1e-3) and config.at(0.5) == pytest.approx(2.5)
    fixed = ScalesConfig(min=2.0, max=2.0)
    assert fixed.at(0.0) == fixed.at(0.9) == 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 10, "num_heads": 4}, "rank 10 is no multiple of num_heads 4"),
        ({"training": {"compute": {"is_packed": True}}}, "compute.is_packed cannot be chosen for guidance"),
        ({"training": {"rows": {"learn": "all"}}}, "rows.learn cannot be chosen for guidance"),
        ({"training": {"rollout": "student"}}, "rollout cannot be chosen for guidance"),
        (
            {"training": {"adapt": {"rank": 4}}},
            "training.adapt is for adapter: lora; a cross adapter has no such setting",
        ),
        ({"adapter": "lora", "training": {"adapt": {"kind": "full"}}}, "accepted: lora, rslora, dora"),
        ({"training": {"schedule": {"num_epoch": 4}}}, "num_epoch"),
        ({"max_kl_ratio": 0}, "greater than 0"),
    ],
)
def test_trainings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuideConfig(**changes)


def test_a_stored_config_reads_as_it_was() -> None:
    config = GuideConfig(training={"schedule": {"num_epochs": 5}})  # type: ignore[arg-type]
    assert config.training.objectives == {"forward_kl": 1.0} and not config.training.compute.is_packed
    assert GuideConfig(**config.model_dump(mode="json")) == config
    assert GuideConfig().training.schedule.learning_rate == config.training.schedule.learning_rate == 5e-4


def test_inputs_that_do_not_belong_together_are_refused_before_anything_runs() -> None:
    def refused(message: str, stage: Any, config: Any, **inputs: tuple[Facts, ...]) -> None:
        with pytest.raises(ValueError, match=message):
            stage.forecast(config, {"model": (MODEL,), "data": (DRAWN,), **inputs})

    refused("the input weak is missing", guide_data, GuideDataConfig(unguided=WeakModel()))
    refused("the input weak is given", guide_data, GuideDataConfig(), weak=(MODEL,))
    refused("vocabulary mismatch", guide_data, GuideDataConfig(unguided=WeakModel()), weak=({"vocab_size": 7},))
    refused("num_recorded is 512, but the vocabulary has 259", guide_data, GuideDataConfig(num_recorded=512))
    refused("make it with guide_data", guide, GuideConfig(), data=({"num_rows": 8},))
    refused("give the input weak just where", guide, GuideConfig(), weak=(MODEL,))
    refused("the data has 1.0 to 3.0", guide, GuideConfig(adapter="lora"))
    refused("num_blocks mismatch: model 4, second 3", guide, GuideConfig(), second=({**MODEL, "num_blocks": 3},))


def test_merge_knows_beforehand_what_guidance_it_can_fold() -> None:
    cross, offset, lora = ({"method": name} for name in ("cross", "offset", "lora"))
    check_guidance_fold("fold", 2.0, [offset])
    check_guidance_fold("fold", None, [lora])
    check_guidance_fold("fold", 2.0, [{}])  # not known yet
    for method, scale, student, message in (
        ("fold", 2.0, cross, "reads the hidden state and cannot be folded"),
        ("fold", None, offset, "guidance_scale is missing"),
        ("slerp", 2.0, offset, "takes method: fold"),
        ("fold", 2.0, lora, "the student is no offset guidance adapter"),
    ):
        with pytest.raises(ValueError, match=message):
            check_guidance_fold(method, scale, [student])
