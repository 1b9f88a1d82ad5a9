"""Guidance in one pass, learned and measured on a small model that really follows its prompt."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from attar.compressors.data.prompts import chat_prompt
from attar.compressors.guidance.gap import answer_logits
from attar.compressors.guidance.scores import guided_scores
from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.kinds.shard_facts import Shard
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.artifacts.dataset.teacher_shards import TeacherRecord
from attar.stages.artifacts.guidance_files import WEIGHTS_FILE, check_base, load_guidance
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.contract import NoInputs
from attar.stages.guidance.config import GuideConfig, GuideInputs
from attar.stages.guidance.data.stage import GuideDataInputs, guide_data
from attar.stages.guidance.stage import guide
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.runtime.progress import listen
from tests.killed import kill_after_step
from tests.stages.guidance.guided import DRAW, GUIDE, learn, question


def test_one_pass_is_close_to_two_at_new_prompts_scales_and_checkpoints(cross: AdapterArtifact) -> None:
    ratios = {name: float(cross.facts[f"kl_ratio_{name}"]) for name in ("seen", "unseen", "second")}
    assert max(ratios.values()) <= 0.6


def test_gradient_checkpointing_gives_the_same_adapters_bit_for_bit(
    store: Store, taught: list[ModelArtifact], drawn: DatasetArtifact
) -> None:
    saved = []
    for is_checkpointed in (False, True):
        compute = {"gradient_checkpointing": is_checkpointed}
        training = GUIDE.training.with_changes(schedule={"max_steps": 3}, compute=compute)
        config = GuideConfig(**{**GUIDE.model_dump(), "training": training, "max_kl_ratio": 100.0, "num_gate_rows": 4})
        saved.append(
            {path.name: load_file(path) for path in learn(store, config, taught, drawn).path.glob("*.safetensors")}
        )
    whole, again = saved
    assert whole.keys() == again.keys() and whole
    for name, weights in whole.items():
        assert weights and all(torch.equal(value, again[name][key]) for key, value in weights.items())


def test_rows_keep_away_from_the_unseen_scale_and_record_what_they_were_drawn_from(
    taught: list[ModelArtifact], drawn: DatasetArtifact
) -> None:
    rows = read_rows(drawn.path / "rows.jsonl")
    scales = [row.guidance_scale or 0.0 for row in rows if row.split == "train"]
    assert len(scales) > 300 and min(abs(scale - 2.0) for scale in scales) >= 0.15
    assert 1.0 <= min(scales) < 1.1 and 2.9 < max(scales) <= 3.0
    heldout = [row for row in rows if row.split == "heldout"]
    assert {row.guidance_scale == 2.0 for row in heldout} == {True, False}
    # two passes over the finished text, without a cache, say what was recorded while writing with two
    model = load_model(taught[0].path, torch.float32)
    record = TeacherRecord(drawn.path)
    for row in rows[:6]:
        logits = [answer_logits(model, part, row.answer_ids) for part in (row.prompt_ids, row.unguided_ids)]
        expected = guided_scores(*logits, row.guidance_scale or 0.0).log_softmax(-1)
        ids, logprobs = record.of(row) or (torch.empty(0), torch.empty(0))
        likely = expected.gather(-1, ids.long()).detach()
        assert (likely.exp() - logprobs.exp()).abs().max() < 2e-3, "stored in 16 bits"


def test_at_scale_one_and_switched_off_a_trained_model_is_the_base_bit_for_bit(
    taught: list[ModelArtifact], cross: AdapterArtifact
) -> None:
    model = load_model(taught[0].path, torch.float32)
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        adapters = load_guidance(cross.path, model)
        adapters.attach(model)
        assert torch.equal(model(input_ids=ids).logits, plain), "off"
        with adapters.at(1.0):
            assert torch.equal(model(input_ids=ids).logits, plain)
        with adapters.at(2.0):
            guided = model(input_ids=ids).logits
        with adapters.at(torch.tensor([3.0])):
            top = model(input_ids=ids).logits
        with adapters.at(50.0):
            assert torch.equal(model(input_ids=ids).logits, top), "clamped to the trained range"
        assert not torch.equal(guided, plain) and not torch.equal(guided, top)
        with adapters.at(torch.tensor([1.0, 2.0])):  # a scale a row
            both = model(input_ids=ids.repeat(2, 1)).logits
    torch.testing.assert_close(both[:1], plain, atol=1e-4, rtol=0)
    torch.testing.assert_close(both[1:], guided, atol=1e-4, rtol=0)


def test_scales_move_the_distribution_in_order(taught: list[ModelArtifact], cross: AdapterArtifact) -> None:
    """KL to the base grows with the scale, and each scale's pass is nearest to two passes at that scale."""
    model = load_model(taught[0].path, torch.float32)
    tokenizer = load_tokenizer(taught[0].path)
    adapters = load_guidance(cross.path, model)
    adapters.attach(model)
    prompt = chat_prompt(tokenizer, question(2, 999))
    answer = tokenizer("abcabcdefghijkla").input_ids
    scales = (1.0, 1.5, 2.0, 2.5, 3.0)
    with torch.no_grad():
        branches = [answer_logits(model, part, answer) for part in (prompt, prompt[-1:])]
        two = [guided_scores(*branches, scale).log_softmax(-1) for scale in scales]
        scale_logprobs = []
        for scale in scales:
            with adapters.at(scale):
                scale_logprobs.append(answer_logits(model, prompt, answer).log_softmax(-1))
    moved = [float((p.exp() * (p - scale_logprobs[0])).sum(-1).mean()) for p in scale_logprobs]
    assert moved[0] == 0.0 and moved == sorted(moved)
    gaps = torch.tensor([[float((p.exp() * (p - q)).sum(-1).mean()) for q in two] for p in scale_logprobs])
    assert (gaps.argmin(dim=1) - torch.arange(5)).abs().max() <= 1


def test_a_gate_that_is_not_reached_is_refused_and_writes_nothing(
    store: Store, taught: list[ModelArtifact], drawn: DatasetArtifact
) -> None:
    training = GUIDE.training.with_changes(schedule={"max_steps": 1, "num_epochs": 1})
    config = GuideConfig(rank=8, num_tokens=4, num_heads=1, training=training)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one pass is not guidance on trained scales: .* accepted: max_kl_ratio 0.6"):
        learn(store, config, taught, drawn)
    assert not list(store.artifacts())


def test_a_checkpoint_tuned_too_far_is_refused(
    store: Store, taught: list[ModelArtifact], drawn: DatasetArtifact
) -> None:
    """Adapters do not carry over to another model; a random one of the same shape stands for one tuned beyond all measure."""
    config = GUIDE.with_changes(training={"schedule": {"num_epochs": 4}})
    other = ingest_model.execute(
        IngestModelConfig(source="random:llama?num_blocks=2&hidden_size=64&seed=9"), NoInputs(), store
    ).artifact
    with pytest.raises(ValueError, match="one pass is not guidance on the second checkpoint"):
        guide.execute(config, GuideInputs(model=taught[0], data=(drawn,), second=other), store)


def test_wrong_models_are_refused(
    store: Store, taught: list[ModelArtifact], drawn: DatasetArtifact, cross: AdapterArtifact, model: ModelArtifact
) -> None:
    with pytest.raises(ValueError, match="drawn from model .* input teacher"):
        guide.execute(GUIDE, GuideInputs(model=taught[1], data=(drawn,)), store)
    with pytest.raises(ValueError, match="passed its gate on .* input `second`"):
        check_base(cross, model)
    for base in taught:
        check_base(cross, base)


def test_sigkill_then_the_same_command_gives_the_same_adapters(
    store: Store,
    taught: list[ModelArtifact],
    drawn: DatasetArtifact,
) -> None:
    training = GUIDE.training.with_changes(schedule={"num_epochs": 3}, checkpoints={"every": 1})
    config = GuideConfig(rank=16, num_tokens=8, num_heads=2, training=training, max_kl_ratio=2.0)  # type: ignore[arg-type]
    whole = learn(Store(store.root / "uninterrupted"), config, taught, drawn)
    kill_after_step(lambda: learn(store, config, taught, drawn), store.root, min_step=2)
    notes: list[str] = []
    with listen(lambda event: notes.append(str(event))):
        resumed = learn(store, config, taught, drawn)
    assert any("continuing at step" in note for note in notes)
    actual, reference = (load_file(adapter.path / WEIGHTS_FILE) for adapter in (whole, resumed))
    assert actual.keys() == reference.keys() and all(torch.equal(actual[name], reference[name]) for name in actual)
    assert whole.fingerprint == resumed.fingerprint


def test_rows_drawn_by_two_workers_are_those_of_one(
    store: Store, taught: list[ModelArtifact], guide_questions: DatasetArtifact
) -> None:
    draw = DRAW.with_changes(max_rows=12, rows_per_shard=8, batch_size=4, drawing={"num_samples": 2})
    inputs = GuideDataInputs(model=taught[0], data=guide_questions)
    shards = [guide_data.execute_shard(draw, inputs, store, Shard(index, 2)).artifact for index in range(2)]
    shared = guide_data.execute(draw, inputs, store, shards=shards).artifact
    assert shared.fingerprint == guide_data.execute(draw, inputs, Store(store.root / "alone")).artifact.fingerprint
