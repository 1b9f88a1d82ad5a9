"""The knee of a sweep: the cheapest of those near the best, by what a model counts, shown beside its quality."""

from __future__ import annotations

import optuna
import pytest

from attar.pipelines.deployments.knee import Measured, cost_of, knee_of, timing_of
from attar.pipelines.deployments.sweep import goals, knee_trial, pareto_rows

# resolutions 128 to 512: flat from the third on
CURVE = [Measured(0, 0.70, 1.0), Measured(1, 0.79, 3.0), Measured(2, 0.81, 9.0), Measured(3, 0.82, 16.0)]


@pytest.mark.parametrize(
    ("tolerance", "is_more_better", "expected"),
    [
        (0.001, True, 3),
        (0.02, True, 2),  # 0.82 * 0.98 = 0.8036
        (0.05, True, 1),
        (0.5, True, 0),
        # as losses: 0.70 is the best and the cheapest
        (0.001, False, 0),
    ],
)
def test_the_knee_is_the_cheapest_of_those_near_the_best(tolerance: float, is_more_better: bool, expected: int) -> None:
    for order in (CURVE, CURVE[::-1]):
        assert knee_of(order, tolerance, is_more_better=is_more_better) == expected


def test_of_two_as_cheap_the_better_is_the_knee() -> None:
    assert knee_of([Measured(0, 0.80, 1.0), Measured(1, 0.81, 1.0)], 0.5, is_more_better=True) == 1
    assert knee_of([], 0.5, is_more_better=True) is None


def test_a_cost_is_counted_where_it_can_be() -> None:
    """Operations do not depend on the machine; of a language model seconds are all there is."""
    image = {"auroc": 0.8, "num_parameters": 1e6, "image_seconds": 0.02, "flops_per_image": 5e8}
    assert (cost_of(image), timing_of(image).column) == (5e8, "ms/image")
    assert goals(image, "scores", "auroc") == (0.8, 1e6, 0.02)
    text = {"perplexity": 9.0, "num_parameters": 1e6, "decode_seconds_per_token": 0.5}
    assert (cost_of(text), timing_of(text).column) == (0.5, "decode ms/token")
    filling = {"accuracy": 0.5, "text_seconds": 0.3}
    assert (cost_of(filling), timing_of(filling).column) == (0.3, "ms/text alone")
    uncounted = {"auroc": 0.8, "image_seconds": 0.02, "flops_per_image": 0.0}
    assert cost_of(uncounted) == 0.02, "operations that nobody counted are not none"
    with pytest.raises(ValueError, match="node 'scores' did not measure decode_seconds_per_token; it has auroc"):
        goals({"auroc": 0.8, "num_parameters": 1e6}, "scores", "auroc")


def test_a_sweep_of_images_shows_cost_beside_its_area() -> None:
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    for trial in CURVE:
        attributes = {
            "fields": {"untrained.config.model.image_size": "16"},
            "run": "r",
            "interval": "[0.6, 0.9]",
            "speed": "ms/image",
            "cost": trial.cost,
            "counted": {"MFLOPs/image": f"{trial.cost:.1f}"},
        }
        values = [trial.quality, 1e6, trial.cost / 1e3]
        study.add_trial(optuna.trial.create_trial(values=values, user_attrs=attributes))
    assert knee_trial(study, "auroc", 0.0) is None and knee_trial(study, "auroc", 0.02) == 2
    rows = pareto_rows(study, "auroc", 2)
    assert [row["best"] for row in rows] == ["*", "*", "* knee", "*"]
    assert (rows[2]["auroc"], rows[2]["95%"], rows[2]["ms/image"], rows[2]["MFLOPs/image"]) == (
        "0.8100",
        "[0.6, 0.9]",
        "9.000",
        "9.0",
    )
