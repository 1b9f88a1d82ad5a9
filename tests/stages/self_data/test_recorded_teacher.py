"""Self-data with the teacher beside each answer, in shards that survive a crash."""

from __future__ import annotations

import json

import pytest
import torch

from attar.compressors.data.prompts import chat_prompt
from attar.compressors.data.styles import STYLES, rewrite_question
from attar.compressors.measure.likelihood import continuation_likelihoods
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import Row, read_rows
from attar.stages.artifacts.dataset.teacher_shards import TeacherRecord
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.label.curate import CurateConfig, CurateInputs, curate
from tests.stages.self_data.rewritten import CONFIG, rewrite


def test_kept_rewrites_are_likelier_under_the_original_than_the_human_answers(
    store: Store, quick_to_stop: ModelArtifact, open_questions: DatasetArtifact
) -> None:
    rows = read_rows(rewrite(store, CONFIG, quick_to_stop, open_questions).path / "rows.jsonl")
    rewrites = [row for row in rows if row.source == "rewrite"]
    assert len(rewrites) >= 4
    tokenizer = load_tokenizer(quick_to_stop.path)
    runner = TorchRunner(load_model(quick_to_stop.path, "float32"))

    def loss(row: Row, answer_ids: list[int]) -> float:
        [scored] = continuation_likelihoods(runner, [(chat_prompt(tokenizer, row.question), answer_ids)], batch_size=1)
        return -scored.logprob_nats / scored.num_tokens

    ours = sum(loss(row, row.answer_ids) for row in rewrites) / len(rewrites)
    human = sum(loss(row, tokenizer(row.reference).input_ids) for row in rewrites) / len(rewrites)
    assert ours < human - 0.5


def test_the_data_card_says_how_likely_the_rewrites_are(
    store: Store, quick_to_stop: ModelArtifact, open_questions: DatasetArtifact
) -> None:
    """Recorded: as they were written, with the reference in view. Curated with the model: as they are learned, from the question alone."""
    artifact = rewrite(store, CONFIG, quick_to_stop, open_questions)
    config, inputs = CurateConfig(precision="float32"), CurateInputs(data=artifact, model=quick_to_stop)
    curated = curate.execute(config, inputs, store).artifact
    rewrites = [row for row in read_rows(curated.path / "rows.jsonl") if row.source == "rewrite"]
    assert len(rewrites) >= 4 and curated.facts["num_dropped"] == 0
    tokenizer = load_tokenizer(quick_to_stop.path)
    runner = TorchRunner(load_model(quick_to_stop.path, "float32"))

    def loss(pairs: list[tuple[str, list[int]]]) -> float:
        prompts = [(chat_prompt(tokenizer, question), answer) for question, answer in pairs]
        scored = [continuation_likelihoods(runner, [pair], batch_size=1)[0] for pair in prompts]
        return -sum(score.logprob_nats for score in scored) / sum(score.num_tokens for score in scored)

    questions = [rewrite_question(row.question, row.reference, row.choices, STYLES["general"]) for row in rewrites]
    in_view = loss([(question, row.answer_ids) for question, row in zip(questions, rewrites, strict=True)])
    alone = loss([(row.question, row.answer_ids) for row in rewrites])
    references = loss([(row.question, [*tokenizer(row.reference).input_ids, 2]) for row in rewrites])
    recorded, measured = (
        json.loads((data.path / "records" / "data_card.json").read_text()) for data in (artifact, curated)
    )
    assert recorded["provenance"]["rewritten"] == recorded["loss_under_original"]["num_rewritten"] == len(rewrites)
    assert recorded["loss_under_original"]["rewritten_nats"] == pytest.approx(in_view, abs=5e-3)
    assert "do not compare" in recorded["loss_under_original"]["source"]
    assert measured["loss_under_original"]["rewritten_nats"] == pytest.approx(alone, abs=1e-4)
    assert measured["loss_under_original"]["reference_nats"] == pytest.approx(references, abs=1e-4)
    assert in_view < alone < references


def test_recorded_teacher_of_a_rewrite_is_what_it_drew_from(
    store: Store, quick_to_stop: ModelArtifact, open_questions: DatasetArtifact
) -> None:
    artifact = rewrite(store, CONFIG, quick_to_stop, open_questions)
    record = TeacherRecord(artifact.path)
    rewrites = [row for row in read_rows(artifact.path / "rows.jsonl") if row.source == "rewrite"]
    for row in rewrites:
        ids, logprobs = record.of(row)  # type: ignore[misc]
        assert ids.shape == logprobs.shape == (len(row.answer_ids), 16)
        assert ids[:, 0].tolist() == row.answer_ids, "greedy: each token is its distribution's first"
        assert (logprobs.diff(dim=1) <= 0).all() and (logprobs.logsumexp(1) <= 1e-5).all()


def test_recorded_teacher_of_a_reference_is_the_plain_forward(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    artifact = rewrite(store, CONFIG, model, questions)
    record = TeacherRecord(artifact.path)
    loaded, tokenizer = load_model(model.path, "float32"), load_tokenizer(model.path)
    for row in read_rows(artifact.path / "rows.jsonl")[:3]:
        prompt = chat_prompt(tokenizer, row.question)
        with torch.no_grad():
            logits = loaded(input_ids=torch.tensor([[*prompt, *row.answer_ids]])).logits[0, len(prompt) - 1 : -1]
        ids, logprobs = record.of(row)  # type: ignore[misc]
        expected = logits.log_softmax(-1).gather(-1, ids.long())
        torch.testing.assert_close(logprobs, expected, atol=2**-11 * 4.2 + 1e-4, rtol=2**-11)  # half precision
    only_rewrites = rewrite(store, CONFIG.with_changes(recorded={"rows": "rewrites"}), model, questions)
    assert not any(row.recorded_in for row in read_rows(only_rewrites.path / "rows.jsonl"))
    assert not (only_rewrites.path / "logprobs").exists()
