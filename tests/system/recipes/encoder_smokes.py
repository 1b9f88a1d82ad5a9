"""How presets of encoders and classifiers of texts are made small, and what must get better on held-out rows; see test_methods.py."""

from __future__ import annotations

from typing import Any

SMALL_ENCODER = "random:bert?num_blocks=2&hidden_size=32"


def encoder_quick(node: str, num_epochs: int) -> dict[str, Any]:
    """A training of a tiny encoder, whose blocks learn whole."""
    schedule = {"num_epochs": num_epochs, "learning_rate": 3e-3, "tokens_per_step": 512}
    return {
        f"{node}.config.schedule": schedule,
        f"{node}.config.heldout.every": 4,
        f"{node}.config.compute": {"tokens_per_micro_batch": 1024, "precision": "float32"},
    }


# functions that no one has read: what the exits learn of them is little, and the last learns most
EXITS: dict[str, Any] = {
    "original.config.source": "random:bert?num_blocks=3&hidden_size=32",
    "functions.config.source": "docstrings:json",
    "functions.config.max_rows": 60,
    "functions.config.choose_fraction": 0.3,
    "student.config.adapt.exits": [1, 2, 3],
    "exit_2.config.format.exit": 1,
    "exit_4.config.format.exit": 2,
    "early.config.format.early": {"exits": [1, 2, 3], "min_agreement": 0.9},
    **encoder_quick("student", num_epochs=8),
}
# a token a byte: a question with its reasoning is as long as three of words
REASONED: dict[str, Any] = {
    "original.config.source": SMALL_ENCODER,
    "thinking.config.source": SMALL_ENCODER,
    **{f"{node}.config.model.max_tokens": 256 for node in ("original", "thinking")},
    "questions.config.source": "jsonl:shipped/capitals.jsonl",
    "questions.config.verifier": "auto",
    "questions.config.max_rows": 100,
    **encoder_quick("student", num_epochs=8),
    "student.config.heldout.every": 24,
    "student.config.rows.max_tokens": 256,
    "student.config.schedule.tokens_per_step": 1024,
    "student.config.compute.tokens_per_micro_batch": 2048,
    # where nothing is told apart yet, the two views begin alike: what is between them grows first
    "student.config.heldout.patience": 0,
}
POOL: dict[str, Any] = {
    "original.config.source": SMALL_ENCODER,
    "fresh.config.source": SMALL_ENCODER,
    "requests.config.max_rows": 80,
    "questions.config.source": "jsonl:shipped/requests.jsonl",
    "questions.config.verifier": "auto",
    "questions.config.max_rows": 80,
    "pruned.config.blocks": [1],
    **encoder_quick("lesson", num_epochs=4),
    **encoder_quick("student", num_epochs=6),
}
# a tagger that was never taught stands for the language model, which no tiny one could: what it says of words can be learned
SPANS: dict[str, Any] = {
    "teacher.config": {
        "source": SMALL_ENCODER,
        "sha256": "",
        "model": {"kind": "tagger", "labels": ["Fault", "Part", "Product"], "max_tokens": 128},
    },
    "labelled.config": {},
    "labelled.inputs.examples": [],
    "reports.config.max_rows": 60,
    "fresh.config.source": "random:bert?num_blocks=2&hidden_size=32&seed=1",
    "pruned.config.blocks": [1],
    **encoder_quick("student", num_epochs=6),
}
# of few texts that are much alike for a random encoder, how their tokens relate says more than how alike they are
ELASTIC: dict[str, Any] = {
    "original.config.source": "random:bert?num_blocks=3&hidden_size=32",
    "functions.config.source": "docstrings:json",
    "functions.config.max_rows": 40,
    "functions.config.choose_fraction": 0.3,
    "everyday.config.max_rows": 20,
    "student.config.adapt.space": {"blocks": [2], "width": [16], "heads": [2], "channels": [32]},
    "student.config.objectives": {
        "similarity_rows": 1.0,
        "relation": {"divergence": {"self_attention_relation": {"num_relation_heads": 2}}, "weight": 1.0},
    },
    **encoder_quick("student", num_epochs=3),
}
TWO_CLASSES: dict[str, Any] = {
    "original.config.source": SMALL_ENCODER,
    "wide.config.source": SMALL_ENCODER,
    # its own data: two classes that hide four kinds of requests each
    "questions.config.source": "jsonl:shipped/requests.jsonl",
    "questions.config.verifier": "auto",
    "questions.config.max_rows": 80,
    "pruned.config.blocks": [1],
    **encoder_quick("lesson", num_epochs=4),
    **encoder_quick("student", num_epochs=6),
}
GRADED: dict[str, Any] = {
    "original.config.source": SMALL_ENCODER,
    "fresh_scorer.config.source": SMALL_ENCODER,
    "questions.config.source": "jsonl:shipped/sentences.jsonl",
    "questions.config.verifier": "auto",
    "questions.config.max_rows": 40,
    "pruned.config.blocks": [1],
    **encoder_quick("lesson", num_epochs=2),
    **encoder_quick("student", num_epochs=6),
}
# The fields of each preset's `Smoke`.
ENCODER_SMOKES: dict[str, dict[str, Any]] = {
    "lelp": {"losses": {"lelp": 1.0}, "changes": TWO_CLASSES},
    "ade": {"losses": {"labels": 1.0}, "share": 0.8, "changes": SPANS},
    "trans-encoder": {"losses": {"pair_distance": 1.0}, "changes": GRADED},
    "hierarchical-self-distillation": {
        "losses": {f"pair_contrast_exit_{depth}": depth / 3 for depth in (1, 2, 3)},
        "share": 0.95,
        "changes": EXITS,
        "until": "scores",
    },
    "distill-weighted": {
        "losses": {"labels": 0.5, "forward_kl_teacher_1": 0.5},
        "share": 0.92,
        "changes": POOL,
    },
    "laser": {
        "losses": {"pair_contrast": 1.0, "reasoned_contrast": 1.0},
        "share": 0.9,
        "changes": REASONED,
        "until": "scores",
    },
    "autodistil": {
        "losses": {"relation_smallest": 1.0},
        "share": 0.85,
        "changes": ELASTIC,
    },
}
