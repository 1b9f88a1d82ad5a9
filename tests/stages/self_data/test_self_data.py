"""Self-data: who wrote each answer and why, the teacher beside it, shards that survive a crash."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import torch

from attar.compressors.data.choose import CHOOSERS
from attar.compressors.data.keep import reason_kind
from attar.compressors.data.styles import AUTO, STYLES
from attar.compressors.data.verifiers.catalogue import OBJECTIONS
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.chat_server import ServerConfig
from attar.stages.artifacts.dataset.rows import Row, read_rows
from attar.stages.artifacts.dataset.samples import training_samples
from attar.stages.artifacts.dataset.teacher_shards import TeacherRecord, finished_shards
from attar.stages.contract import NoInputs
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.runtime.progress import Event, Note, listen
from attar.stages.self_data.config import DrawingConfig, PromptConfig, SelfDataConfig
from attar.stages.self_data.stage import SelfDataInputs, self_data
from tests.stages.self_data.rewritten import CONFIG, rewrite


def test_every_row_says_who_wrote_it_and_none_is_lost(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    rows = read_rows(rewrite(store, CONFIG, model, questions).path / "rows.jsonl")
    before = {row.id: row for row in read_rows(questions.path / "rows.jsonl")}
    assert [row.id for row in rows] == sorted(before)
    for row in rows:
        assert row.source == "reference", "a random model gets no sum right"
        assert reason_kind(row.reason) in {f"kept: {kind}" for kind in OBJECTIONS}
        assert row.answer == row.reference == before[row.id].answer
        assert row.split == before[row.id].split
        assert row.answer_ids[-1] == 2, "a reference ends with the stop token too"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_interrupted_shards_are_continued_to_the_same_rows(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    config = CONFIG.with_changes(drawing={"temperature": temperature})
    whole = rewrite(Store(store.root / "other"), config, model, questions)
    from attar.stages.artifacts.dataset import partial_rows as module

    written = []
    real = module.write_shard

    def write_one_then_die(folder: Path, index: int, *rest: object) -> None:
        real(folder, index, *rest)  # type: ignore[arg-type]
        written.append(index)
        if len(written) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_shard", write_one_then_die)
    with pytest.raises(KeyboardInterrupt):
        rewrite(store, config, model, questions)
    [workdir] = (store.root / "work").iterdir()
    assert finished_shards(workdir / "shards") == {0}
    resumed = rewrite(store, config, model, questions)
    assert written == [0, 1, 2], "the finished shard was not written again"
    assert resumed.fingerprint == whole.fingerprint


def test_text_without_questions_is_refused(store: Store, model: ModelArtifact, tmp_path: Path) -> None:
    from attar.stages.ingest.data import IngestDataConfig, ingest_data

    path = tmp_path / "text.txt"
    path.write_text("only prose")
    text = ingest_data.execute(IngestDataConfig(source=f"text:{path}"), NoInputs(), store).artifact
    with pytest.raises(ValueError, match="no questions to answer, only text"):
        rewrite(store, CONFIG, model, text)


def test_free_texts_are_the_models_own_and_can_be_learned_from(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    config = CONFIG.with_changes(free_texts={"num": 10, "tokens": 20, "start": "<|endoftext|>"})
    artifact = rewrite(store, config, model, questions)
    rows = read_rows(artifact.path / "rows.jsonl")
    free = [row for row in rows if row.source == "free"]
    assert len(free) == 10 and len(rows) == 10 + 12
    parts = [row.split for row in free]
    assert (parts[0], parts[8]) == ("heldout", "choose") and parts.count("train") == 8, "every eighth, in turn"
    record = TeacherRecord(artifact.path)
    for row in free:
        assert row.prompt_ids == [0] and row.text and 1 <= len(row.answer_ids) <= 20
        ids, logprobs = record.of(row)  # type: ignore[misc]
        assert ids.shape == logprobs.shape == (len(row.answer_ids), 16)
    assert len({tuple(row.answer_ids) for row in free}) > 5, "sampled, not repeated"
    samples = training_samples(model.path, artifact, 100, 64)
    assert sum(sample[0] == 0 for sample in samples) == 8, "calibration reads them as they were written"
    student = FinetuneConfig(
        adapt={"rank": 2},
        objectives={"forward_kl": 1.0},
        schedule={"num_epochs": 1, "tokens_per_step": 512},
        compute={"precision": "float32"},
    )
    adapter = finetune.execute(student, FinetuneInputs(model=model, data=(artifact,)), store).artifact
    assert int(adapter.facts["num_steps"]) >= 1


def test_an_unknown_start_token_is_refused(store: Store, model: ModelArtifact, questions: DatasetArtifact) -> None:
    config = CONFIG.with_changes(free_texts={"num": 2, "start": "<nowhere>"})
    with pytest.raises(ValueError, match="'<nowhere>' is no token of the tokenizer"):
        rewrite(store, config, model, questions)


def test_no_accepted_rewrite_is_said_in_one_line(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    events: list[Event] = []
    with listen(events.append):
        artifact = rewrite(store, CONFIG, model, questions)
    assert artifact.facts["num_rewritten"] == 0
    [warning] = [event.text for event in events if isinstance(event, Note) and event.text.startswith("warning")]
    assert warning.startswith("warning: no rewrite was accepted, all 12 rows keep their reference answers; 12 ")
    for row in read_rows(artifact.path / "rows.jsonl"):
        assert (row.answer, row.pass_rate, row.difficulty) == (row.reference, 0.0, 1.0)


def test_of_several_samples_the_likeliest_that_passes_is_kept(
    store: Store, quick_to_stop: ModelArtifact, open_questions: DatasetArtifact
) -> None:
    """With no check but an end, the kept sample is the likeliest finished one of the row's own draws."""
    # short, so that some are cut; the whole vocabulary recorded, so that every drawn token is in it
    single = CONFIG.with_changes(drawing={"temperature": 1.0, "max_new_tokens": 3}, recorded={"num_candidates": 259})
    several = single.with_changes(drawing={"num_samples": 4})
    first, best = (rewrite(store, config, quick_to_stop, open_questions) for config in (single, several))
    rows = {row.id: row for row in read_rows(best.path / "rows.jsonl")}
    assert len({row.pass_rate for row in rows.values()}) > 1
    for row in rows.values():
        assert row.pass_rate in (0.0, 0.25, 0.5, 0.75, 1.0) and row.difficulty == 1.0 - row.pass_rate
        assert row.source == "reference" or row.pass_rate > 0.0
    gains = []
    for row in read_rows(first.path / "rows.jsonl"):
        if row.source == "rewrite":  # the first sample is one of the four
            assert rows[row.id].source == "rewrite"
            gains.append(mean_logprob(best, rows[row.id]) - mean_logprob(first, row))
    assert min(gains) > -1e-5 and max(gains) > 0.1
    again = several.with_changes(batch_size=4, rows_per_shard=12)
    rebatched = read_rows(rewrite(store, again, quick_to_stop, open_questions).path / "rows.jsonl")
    assert [row.rewrite for row in rebatched] == [row.rewrite for row in rows.values()], "the same draws in any batch"


def mean_logprob(artifact: DatasetArtifact, row: Row) -> float:
    ids, logprobs = TeacherRecord(artifact.path).of(row)  # type: ignore[misc]
    own = torch.tensor(row.answer_ids)[:, None] == ids
    return float(logprobs[own].mean())


def test_the_graph_writes_what_the_model_writes(
    store: Store, model: ModelArtifact, graph: OnnxArtifact, questions: DatasetArtifact
) -> None:
    through_onnx = CONFIG.with_changes(sampler="onnx")
    rows = [
        read_rows(
            self_data.execute(config, SelfDataInputs(model=writer, data=questions), store).artifact.path / "rows.jsonl"
        )
        for config, writer in ((CONFIG, model), (through_onnx, graph))
    ]
    assert rows[0] == rows[1]
    for config, writer in ((CONFIG, graph), (through_onnx, model)):
        with pytest.raises(ValueError, match=f"sampler is '{config.sampler}', but the input is an? .*; accepted: "):
            self_data.execute(config, SelfDataInputs(model=writer, data=questions), store)
        with pytest.raises(ValueError, match=f"sampler is '{config.sampler}'"):
            self_data.forecast(config, {"model": (writer.facts,), "data": (questions.facts,)})


SERVER = {"base_url": "http://127.0.0.1:9/v1", "model": "m"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "server"}, "sampler is 'server': server is missing"),
        ({"server": SERVER}, "server is given, but sampler is 'torch'"),
        ({"sampler": "server", "server": SERVER, "free_texts": {"num": 3}}, "free_texts.num is 3, but a chat server"),
        ({"drawing": {"num_samples": 4}}, "num_samples is 4, but at temperature 0"),
        ({"template": "{question} only"}, "must contain {question} and {answer}"),
        ({"prompt": {"style": "poem"}}, "'general', 'instruction', 'math', 'multiple_choice', 'code' or 'auto'"),
        ({"choose": "best"}, "'best_of' or 'majority'"),
    ],
)
def test_options_that_contradict_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SelfDataConfig(**options)


def test_a_key_in_the_recipe_is_refused_before_anything_runs(model: ModelArtifact) -> None:
    config = SelfDataConfig(sampler="server", server=ServerConfig(**SERVER, api_key_env="sk-live-123"))
    with pytest.raises(ValueError, match="not the name of an environment variable") as error:
        self_data.forecast(config, {"model": (model.facts,), "data": ({},)})
    assert "sk-live" not in str(error.value)


def test_every_style_is_an_option() -> None:
    assert {*STYLES, AUTO} == set(get_args(PromptConfig.model_fields["style"].annotation))
    assert set(CHOOSERS) == set(get_args(DrawingConfig.model_fields["choose"].annotation))
