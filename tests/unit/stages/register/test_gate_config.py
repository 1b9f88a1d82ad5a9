"""A gate in either form: checks on intervals, or thresholds as before, which keep their key."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from attar.stages.register.config import RegisterConfig
from attar.stages.register.gate_verdict import check_inputs, check_names

CHECKS = {"checks": [{"measure": "accuracy_drop", "data": "facts", "limit": 0.1}], "level": 0.1}


def test_both_forms_are_read_and_written_as_they_are() -> None:
    old = RegisterConfig(name="small", gate={"max_size_ratio": 0.9})
    assert old.thresholds == {"max_size_ratio": 0.9} and old.interval_gate is None
    assert old.model_dump(mode="json") == {"name": "small", "gate": {"max_size_ratio": 0.9}, "champion": "past_gate"}
    new = RegisterConfig(name="small", gate=CHECKS)
    assert new.interval_gate is not None and new.interval_gate.level == 0.1 and new.thresholds == {}
    assert RegisterConfig.model_validate(new.model_dump(mode="json")) == new
    assert RegisterConfig(name="small").thresholds == {}


def test_changes_go_from_either_form_to_the_other() -> None:
    old = RegisterConfig(name="small", gate={"max_size_ratio": 0.9})
    new = old.with_changes(gate=CHECKS)
    assert new.interval_gate is not None
    assert new.with_changes(gate={"level": 0.2}).interval_gate.level == 0.2  # type: ignore[union-attr]
    assert new.with_changes(gate={"max_size_ratio": 0.8}).thresholds == {"max_size_ratio": 0.8}


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ({"max_sise_ratio": 0.9}, "unknown threshold 'max_sise_ratio'. Did you mean 'max_size_ratio'?"),
        ({"max_size_ratio": 0.0}, "max_size_ratio is 0.0; accepted: above 0"),
        ({**CHECKS, "level": 0.0}, "greater than 0"),
        ({**CHECKS, "level": 1.0}, "less than 0.5"),
        ({**CHECKS, "multiplicity": "bonferroni"}, "'holm' or 'each'"),
        ({"checks": []}, "at least 1 item"),
        ({"level": 0.1}, "Field required"),
        ({"checks": [{"measure": "speed", "limit": 1.0}]}, "'accuracy_drop'"),
    ],
)
def test_a_gate_that_means_nothing_is_refused(gate: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RegisterConfig(name="small", gate=gate)


def test_a_task_that_will_not_be_measured_is_refused_before_anything_runs() -> None:
    gate = RegisterConfig(name="small", gate=CHECKS).interval_gate
    check_names(gate, {"evaluation": ({"measured": ("facts", "sums")},)})
    check_names(gate, {"evaluation": ({},)})
    with pytest.raises(ValueError, match="gate.checks: accuracy_drop: 'facts' was not measured. Did you mean 'fact'?"):
        check_names(gate, {"evaluation": ({"measured": ("fact", "sums")},)})
    mixed = {"checks": [{"measure": "accuracy_drop", "data": "facts_choice", "limit": 0.1}]}
    check_names(RegisterConfig(name="small", gate=mixed).interval_gate, {"evaluation": ({"measured": ("facts",)},)})


def test_checks_of_compare_and_its_input_go_together() -> None:
    kl = RegisterConfig(name="small", gate={"checks": [{"measure": "kl_nats", "limit": 0.3}]}).interval_gate
    drop = RegisterConfig(name="small", gate=CHECKS).interval_gate
    check_inputs(kl, ["model", "comparison"])
    check_inputs(drop, ["model"])
    with pytest.raises(ValueError, match="kl_nats is measured by compare; give the input comparison"):
        check_inputs(kl, ["model"])
    with pytest.raises(ValueError, match="comparison: no check of the gate reads it"):
        check_inputs(drop, ["comparison"])
    behaviour = RegisterConfig(
        name="small", gate={"checks": [{"measure": "behaviour_drop", "limit": 0.1}]}
    ).interval_gate
    with pytest.raises(ValueError, match="behaviour_drop is measured by check_behaviour; give the input behaviour"):
        check_inputs(behaviour, ["model"])
