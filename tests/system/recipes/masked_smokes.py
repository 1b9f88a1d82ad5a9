"""How presets of students that fill masks are made small, and what must get better on held-out rows; see test_methods.py."""

from __future__ import annotations

from typing import Any

MASKS = {"token": "<|endoftext|>", "block_size": 8}


def masked_quick(node: str, num_epochs: int, hide: str = "random") -> dict[str, Any]:
    """A training of a tiny model whose blocks learn whole."""
    return {
        f"{node}.config.adapt": {"kind": "full"},
        f"{node}.config.rows.masks": {**MASKS, "hide": {"kind": hide}},
        f"{node}.config.schedule": {"num_epochs": num_epochs, "learning_rate": 5e-3, "tokens_per_step": 256},
        f"{node}.config.heldout.every": 4,
        f"{node}.config.compute": {"tokens_per_micro_batch": 4096, "precision": "float32"},
    }


# of six tokens an answer of the tiny models' own has at most
WRITTEN = {"answers.config.max_new_tokens": 6, "answers.config.precision": "float32"}
SCORED = {
    f"{node}.config.{name}": value
    for node in ("filler_scores", "scores")
    for name, value in (("max_new_tokens", 8), ("precision", "float32"))
}
MASKED_SMOKES: dict[str, dict[str, Any]] = {
    "dparallel": {
        "losses": {"next_token": 1.0, "certainty": 8.0},
        "changes": {**WRITTEN, **SCORED, **masked_quick("lesson", 1), **masked_quick("student", 6, "complements")},
    },
    "bang": {
        "losses": {"texts": 1.0, "outputs": 1.0},
        "source": "weak",
        "changes": {
            **WRITTEN,
            **SCORED,
            "lesson.config.schedule": {"num_epochs": 3, "learning_rate": 5e-3, "tokens_per_step": 256},
            "lesson.config.compute.precision": "float32",
            "recorded.config.precision": "float32",
            **masked_quick("student", 8, "whole"),
        },
    },
}
