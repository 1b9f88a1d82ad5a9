"""What a release of an encoder is gated by, and what its card tells of it."""

from __future__ import annotations

from attar.registry.release.gate import ENCODER_METRICS, THRESHOLDS
from attar.stages.register.config import IntervalGate, Thresholds

# Thresholds on what every model has, and those of an encoder.
SHARED_THRESHOLDS = {"max_size_ratio"}
ENCODER_THRESHOLDS = SHARED_THRESHOLDS | {name for name, (metric, _) in THRESHOLDS.items() if metric in ENCODER_METRICS}
# Checks on intervals that an encoder's evaluation holds what is needed for.
ENCODER_CHECKS = ("bytes_ratio", "parameters_ratio")
# For model hubs: the library that reads a version, and what it does.
CAUSAL_FRONT, ENCODER_FRONT = ("transformers", "text-generation"), ("sentence-transformers", "sentence-similarity")
# MLflow's word for what MLflow's own pipeline over a version does.
CAUSAL_TASK, ENCODER_TASK = "text-generation", "feature-extraction"
# What a form is and what runs it, where that is another than a causal model's.
ENCODER_FORMS = {"onnx": "ONNX graph, pooling inside: onnxruntime, tokenizers"}


def check_gate(gate: Thresholds | IntervalGate, *, is_encoder: bool) -> None:
    """Raise ValueError for a limit on what the other kind of model is measured by."""
    if not isinstance(gate, dict):
        if is_encoder and (other := [check.measure for check in gate.checks if check.measure not in ENCODER_CHECKS]):
            raise ValueError(
                f"gate.checks: {other[0]} is not measured of an encoder; accepted: {', '.join(ENCODER_CHECKS)}, or thresholds"
            )
        return
    own = ENCODER_THRESHOLDS if is_encoder else set(THRESHOLDS) - ENCODER_THRESHOLDS | SHARED_THRESHOLDS
    if unmeasured := [name for name in gate if name not in own]:
        kind = "an encoder" if is_encoder else "a causal language model"
        raise ValueError(f"gate.{unmeasured[0]} is not measured of {kind}; accepted: {', '.join(sorted(own))}")
