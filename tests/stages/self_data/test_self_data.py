"""Self-data: who wrote each answer and why, the teacher beside it, shards that survive a crash."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import get_args

import pytest
import torch

from attar.compressors.data.choose import CHOOSERS
from attar.compressors.data.keep import reason_kind
from attar.compressors.data.prompts import chat_prompt
from attar.compressors.data.styles import AUTO, STYLES, rewrite_question
from attar.compressors.data.verifiers.catalogue import OBJECTIONS
from attar.compressors.measure.likelihood import continuation_likelihoods
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.chat_server import ServerConfig
from attar.stages.artifacts.dataset.rows import Row, read_rows
from attar.stages.artifacts.dataset.samples import training_samples
from attar.stages.artifacts.dataset.teacher_shards import TeacherRecord, finished_shards
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.contract import NoInputs
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.label.curate import CurateConfig, CurateInputs, curate
from attar.stages.runtime.progress import Event, Note, listen
from attar.stages.self_data.config import PromptConfig, SelfDataConfig
from attar.stages.self_data.stage import SelfDataInputs, self_data

CONFIG = SelfDataConfig(
    drawing={"max_new_tokens": 12}, batch_size=2, rows_per_shard=4, recorded={"num_candidates": 16}, precision="float32"
)


def rewrite(store: Store, config: SelfDataConfig, model: ModelArtifact, data: DatasetArtifact) -> DatasetArtifact:
    return self_data.execute(config, SelfDataInputs(model=model, data=data), store).artifact


def all_verified_by_nothing(source: DatasetArtifact, folder: Path) -> DatasetArtifact:
    """The same questions without a checkable answer, so that what the random model writes is kept."""
    from attar.stages.artifacts.dataset.rows import write_rows

    target = folder / source.path.parents[1].name / source.path.parents[0].name  # a manifest says where it belongs
    shutil.copytree(source.path.parent, target)
    rows = [row.with_changes(verifier="none") for row in read_rows(source.path / "rows.jsonl")]
    write_rows(target / "content" / "rows.jsonl", rows)
    return DatasetArtifact(target / "content", source.facts, source.key, source.fingerprint + "-open")


@pytest.fixture
def open_questions(questions: DatasetArtifact, tmp_path: Path) -> DatasetArtifact:
    return all_verified_by_nothing(questions, tmp_path / "open")


@pytest.fixture
def quick_to_stop(model: ModelArtifact, shared_store: Store, tmp_path: Path) -> ModelArtifact:
    """The random model with every second token it likes as a stop token: its answers end by themselves."""
    from transformers import GenerationConfig

    folder = tmp_path / "stopper"
    shutil.copytree(model.path, folder)
    GenerationConfig(eos_token_id=[2, *range(100, 259)]).save_pretrained(folder)
    return ingest_model.execute(IngestModelConfig(source=f"folder:{folder}"), NoInputs(), shared_store).artifact


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


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_interrupted_shards_are_continued_to_the_same_rows(
    store: Store, model: ModelArtifact, questions: DatasetArtifact, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    config = CONFIG.with_changes(drawing={"temperature": temperature})
    whole = rewrite(Store(store.root / "other"), config, model, questions)
    from attar.stages.self_data import stage as module

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
    from attar.stages.contract import NoInputs
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
    assert set(CHOOSERS) == set(get_args(SelfDataConfig.model_fields["choose"].annotation))
