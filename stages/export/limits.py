"""What an export of a model that writes nothing has not. One check for all subjects, before anything is traced."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from attar.registry.artifacts.subjects import Subject
from attar.stages.export.config import ExportConfig
from attar.stages.export.formats.onnx import OnnxFormat

CAUSAL_FIELDS = ("num_new_tokens", "min_token_agreement", "max_tie_logits")


def graph_form(
    config: ExportConfig,
    subject: Subject,
    other_inputs: Collection[str],
    *,
    takes: str = "none",
    accepted: str = "format.opset, num_prompts",
    more: Sequence[str] = (),
    has_halves: bool = True,
) -> OnnxFormat:
    """Return the graph's format. Raises ValueError for another than fused operators, guidance, text, and fields of written answers.

    `takes`: the inputs that it has. `accepted`: the fields that say something; `more`: others beside those of written answers that say nothing.
    `has_halves`: whether its graph can be in 16 bits.
    """
    what = subject.words
    if config.format.kind != "onnx":
        raise ValueError(f"format.kind is {config.format.kind!r}, but the model is {what}; accepted: 'onnx'")
    if config.format.operators != "fused":
        raise ValueError(f"format.operators is {config.format.operators!r}, but the model is {what}; accepted: 'fused'")
    if config.format.cache.kind != "float":
        raise ValueError(f"format.cache.kind is 'int8', but the model is {what}, which keeps no cache; accepted: float")
    if config.format.precision != "float32" and not has_halves:
        raise ValueError(f"format.precision is {config.format.precision!r}, but the model is {what}; accepted: float32")
    if other_inputs:
        raise ValueError(
            f"input {next(iter(other_inputs))} is for causal language models, and the model is {what}; accepted: {takes}"
        )
    if given := [name for name in (*CAUSAL_FIELDS, *more) if name in config.model_fields_set]:
        raise ValueError(f"{given[0]} is given, but the model is {what}, which writes nothing; accepted: {accepted}")
    return config.format
