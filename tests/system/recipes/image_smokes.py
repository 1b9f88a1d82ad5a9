"""How presets of image classifiers are made small, and what must get better on held-out images; see test_methods.py."""

from __future__ import annotations

from typing import Any


def image_quick(num_epochs: int, **more: Any) -> dict[str, Any]:
    """A training of a tiny net on some of the digits."""
    net = "random:resnet?num_blocks=2&hidden_size=12&image_size=16&num_channels=1&num_classes=10"
    schedule = {"num_epochs": num_epochs, "learning_rate": 1e-2, "tokens_per_step": 32}
    return {
        **{f"{node}.config.source": net for node in ("untrained", "wide", "narrow")},
        **{f"{node}.config.max_rows": 360 for node in ("digits", "pool")},
        "lesson.config.schedule.num_epochs": 4,
        "student.config.schedule": schedule,
        **more,
    }


# a vit, whose parts learn a little slower than convolutions do
POA: dict[str, Any] = {
    **image_quick(14),
    "untrained.config.source": "random:vit?num_blocks=3&hidden_size=32&image_size=16&num_channels=1&num_classes=10",
    "student.config.schedule": {"num_epochs": 14, "learning_rate": 4e-3, "tokens_per_step": 32},
    "student.config.heldout.every": 30,
    "student.config.adapt.space": {"blocks": [2], "width": [16], "channels": [32]},
}


IMAGE_SMOKES: dict[str, dict[str, Any]] = {
    "sla": {"losses": {"labels": 1.0, "label_augmentation": 1.0}, "changes": image_quick(8)},
    "lsskd": {"losses": {"labels": 1.0, "stage_heads": 1.0}, "changes": image_quick(8)},
    "mdcs": {"losses": {"diverse_experts": 1.0}, "changes": image_quick(8, **{"digits.config.tail_fraction": 0.2})},
    # a cut of most of a net that knows something, which a tiny net of four epochs hardly does
    "taylor-channels": {
        "losses": {"labels": 0.3, "forward_kl": 1.0},
        "changes": image_quick(
            8, **{"lesson.config.schedule.learning_rate": 1e-2, "thinner.config.size.parameter_fraction": 0.2}
        ),
        "until": "healed",
    },
    "sd-darts": {
        "losses": {"labels": 0.3, "forward_kl": 1.0},
        "changes": image_quick(
            6,
            **{
                "untrained.config.source": "random:resnet?num_blocks=4&hidden_size=12&image_size=16&num_channels=1&num_classes=10",
                "searched.config": {"num_steps": 6, "batch_size": 16, "num_removed": 1},
                "searched.config.voting.every": 2,
                "pruned.config.num_blocks": 1,
            },
        ),
        "until": "student",
    },
    "resolution": {"losses": {"labels": 1.0}, "changes": image_quick(8)},
    "ssld": {"losses": {"label_free": 1.0}, "changes": image_quick(8), "until": "student"},
    "poa": {"losses": {"labels_largest": 0.8, "labels_drawn_1": 0.2}, "changes": POA},
}
