"""Forecast a training's work, in FLOPs, from its schedule and its inputs' facts. `attar plan` makes minutes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attar.registry.artifacts.facts import Facts
from attar.stages.artifacts.encoder.elastic import space_facts
from attar.stages.artifacts.work_forecast import FORWARD, TOKENS_PER_ROW, num_rows_of, parameters_of
from attar.stages.finetune.adapt_config import AdaptKind, learned_by
from attar.stages.finetune.schedule_config import MasksConfig, ScheduleConfig


def training_flops(
    schedule: ScheduleConfig,
    eval_every: int,
    student: Facts,
    data: Sequence[Facts],
    *,
    live: Sequence[Facts] = (),
    is_frozen: bool = True,
    is_rolled_out: bool = False,
) -> float:
    """Return the FLOPs of a training with its evaluations of held-out rows; 0: not known.

    A step reads its tokens forward and backward; the gradients of the weights themselves, a third of it, fall away where they are
    frozen. Models that run along (`live`) read them too, and what is rolled out is written first. Every `eval_every` steps the held-out
    rows are read.
    """
    num_parameters, num_live = float(student.get("num_parameters", 0)), parameters_of(live)
    if live and not num_live:
        return 0.0
    num_rows = num_rows_of(data)
    num_heldout = sum(float(facts.get("num_heldout", 0)) for facts in data)
    num_tokens = (num_rows - num_heldout) * TOKENS_PER_ROW * schedule.num_epochs
    if schedule.max_steps:
        limit = float(schedule.max_steps * schedule.tokens_per_step)
        num_tokens = min(num_tokens, limit) if num_rows else limit
    num_steps = -(-num_tokens // schedule.tokens_per_step)
    num_evaluations = 1.0 + num_steps // eval_every
    passes = 2.0 if is_frozen else 3.0
    trained = num_tokens * (num_parameters * (passes + is_rolled_out) + num_live)
    return FORWARD * (trained + num_evaluations * num_heldout * TOKENS_PER_ROW * (num_parameters + num_live))


def learned_facts(adapt: AdaptKind, model: Facts, masks: MasksConfig | None = None) -> dict[str, Any]:
    """Return the facts of what will have been learned. Of vectors before the prompt how many and how wide they are."""
    facts: dict[str, Any] = {"vocab_size": model["vocab_size"]} if "vocab_size" in model else {}
    facts |= {} if masks is None else {"mask_token": masks.token, "mask_block_size": masks.block_size}
    _, before = learned_by(adapt)
    if before is not None:
        width = {"hidden_size": model["hidden_size"]} if "hidden_size" in model else {}
        return {**facts, **width, "num_vectors": before.num_vectors}
    known = {"expert_rank": adapt.expert_rank, "exits": adapt.exits}
    facts |= space_facts(adapt.space.space) if adapt.kind == "elastic" else {}
    return {"method": adapt.kind, **{name: value for name, value in known.items() if value}, **facts}
