"""Drafts while rewriting: the same rows, what they came to by style, and a changed text fails."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from attar.compressors.models import decode as decoding
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.artifacts.dataset.teacher_shards import TeacherRecord
from attar.stages.runtime.progress import Event, Metric, listen
from tests.stages.self_data.rewritten import CONFIG, rewrite

LONGER = CONFIG.with_changes(drawing={"max_new_tokens": 40})


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_rows_and_teachers_are_the_same_and_each_style_is_told(
    store: Store, model: ModelArtifact, open_questions: DatasetArtifact, temperature: float
) -> None:
    drafted_config = LONGER.with_changes(drawing={"temperature": temperature})
    plain_config = drafted_config.with_changes(drafts={"max_tokens": 0})
    events: list[Event] = []
    with listen(events.append):
        drafted = rewrite(store, drafted_config, model, open_questions)
    values = {event.name: event.value for event in events if isinstance(event, Metric)}
    assert 0.0 < values["draft_accepted_fraction_general"] <= 1.0
    assert values["tokens_per_pass_general"] > 1.0
    plain = rewrite(store, plain_config, model, open_questions)
    records = TeacherRecord(plain.path), TeacherRecord(drafted.path)
    for before, after in zip(read_rows(plain.path / "rows.jsonl"), read_rows(drafted.path / "rows.jsonl"), strict=True):
        assert after == before
        for expected, recorded in zip(*(record.of(before) for record in records), strict=True):
            # stored in half precision: a logarithm at the border of two numbers rounds either way
            torch.testing.assert_close(recorded.float(), expected.float(), atol=2e-2, rtol=0)


def test_a_draft_that_changes_a_text_fails(
    store: Store, model: ModelArtifact, open_questions: DatasetArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def believes_every_draft(drawn: Sequence[int], draft: Sequence[int], stops: set[int]) -> list[int]:
        return [*draft, drawn[-1]]

    monkeypatch.setattr(decoding, "_written", believes_every_draft)
    with pytest.raises(
        ValueError, match=r"a draft changed a text: token \d+ of \d+ misses .*accepted: drafts.max_tokens: 0"
    ):
        rewrite(store, LONGER, model, open_questions)
