"""What a `random:` source asks for is a size that can be built, or is refused by name while the plan is made."""

from __future__ import annotations

from typing import Any

import pytest

from attar.stages.ingest.model import IngestModelConfig, ingest_model


@pytest.mark.parametrize(
    ("source", "model", "message"),
    [
        ("random:llama?layers=2", {}, "option 'layers' is unknown; accepted: num_blocks, hidden_size, seed"),
        ("random:llama?num_blocks=two", {}, "num_blocks is 'two'; accepted: 1 to 1000, a whole number"),
        ("random:llama?num_blocks=0", {}, "num_blocks is '0'; accepted: 1 to 1000"),
        ("random:qwen3?num_blocks=1000000", {}, "num_blocks is '1000000'; accepted: 1 to 1000"),
        ("random:llama?hidden_size=", {}, "hidden_size is ''; accepted: 1 to 16384"),
        ("random:gemma2?hidden_size=20", {}, "hidden_size is 20; accepted: a multiple of 8"),
        ("random:llama?seed=-1", {}, "seed is '-1'; accepted: 0 to 4294967295"),
        ("random:bert?num_blocks=1e3", {"kind": "encoder"}, "num_blocks is '1e3'; accepted: 1 to 1000"),
        ("random:bert?width=8", {"kind": "classifier", "labels": ["a", "b"]}, "option 'width' is unknown"),
        ("random:resnet?image_size=100000", {"kind": "image_classifier"}, "image_size is '100000'; accepted: 1 to 1024"),
        ("random:unet?num_channels=4", {"kind": "denoiser"}, "num_channels is '4'; accepted: 1 to 3"),
    ],
)  # fmt: skip
def test_a_size_that_cannot_be_built_is_refused_in_the_plan(source: str, model: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ingest_model.forecast(IngestModelConfig(source=source, model=model or {"kind": "causal"}), {})


def test_a_large_random_model_is_forecast_without_memory_for_it() -> None:
    facts = ingest_model.forecast(IngestModelConfig(source="random:qwen3?num_blocks=2&hidden_size=8192"), {}).facts
    assert facts["num_parameters"] > 500_000_000 and facts["dtype"] == "float32"
    model = {"kind": "classifier", "labels": ["a", "b"]}
    facts = ingest_model.forecast(
        IngestModelConfig(source="random:bert?num_blocks=2&hidden_size=8192", model=model), {}
    ).facts
    assert facts["num_parameters"] > 500_000_000 and facts["labels"] == ("a", "b")
