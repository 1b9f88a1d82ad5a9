"""A stage that is asked for a shard of nothing does not do the whole work instead."""

from __future__ import annotations

import pytest

from attar.pipelines.deployments.single_stage import stage


def test_a_shard_of_no_shards_is_refused_before_anything_starts() -> None:
    with pytest.raises(ValueError, match="shard_index is 3, but num_shards is 0, the whole work; accepted: 0"):
        stage.fn(name="scan", config={}, inputs={}, shard_index=3)
