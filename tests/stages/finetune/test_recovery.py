"""The way back to the original: a recorded or live teacher, frozen blocks, every method folded, and retention measured."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.finetune.stage import finetune
from attar.stages.label.record import RecordConfig, RecordInputs, record
from tests.stages.finetune.recovered import CONFIG, curve, fold, train, weights


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "full", "last_blocks"])
def test_every_method_folds_into_a_plain_model_with_the_loss_it_was_kept_for(
    store: Store, pruned: ModelArtifact, recorded: DatasetArtifact, method: str
) -> None:
    adapter = train(store, pruned, recorded, method=method, rank=4, num_epochs=6, num_last_blocks=1)
    heldout = curve(adapter, "heldout_forward_kl_nats")
    assert min(heldout) < 0.95 * heldout[0]
    again = train(store, fold(store, pruned, adapter), recorded, max_steps=1, learning_rate=1e-9)
    assert curve(again, "heldout_forward_kl_nats")[0] == pytest.approx(min(heldout), abs=5e-3)


def test_trained_weights_that_are_the_bases_own_are_not_folded(
    store: Store, pruned: ModelArtifact, recorded: DatasetArtifact
) -> None:
    adapter = train(store, pruned, recorded, max_steps=1, learning_rate=1e-30)
    with pytest.raises(ValueError, match="folding changed nothing"):
        fold(store, pruned, adapter)


@pytest.mark.parametrize("method", ["lora", "full", "last_blocks"])
def test_weights_learn_in_float32_on_a_bf16_base(
    store: Store, pruned: ModelArtifact, recorded: DatasetArtifact, method: str
) -> None:
    changes = {"precision": "bfloat16", "adapt_blocks": "after_cut", "learning_rate": 3e-3}
    adapter = train(store, pruned, recorded, method=method, rank=4, num_last_blocks=1, **changes)
    heldout = curve(adapter, "heldout_forward_kl_nats")
    assert min(heldout) < 0.95 * heldout[0]
    assert {value.dtype for value in weights(adapter).values()} == {torch.float32}


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is in the extra gpu (#3)")
@pytest.mark.parametrize("quantized", ["nf4", "int8"])
def test_an_adapter_learns_on_a_quantized_base_and_folds_into_the_float_one(
    store: Store, pruned: ModelArtifact, recorded: DatasetArtifact, quantized: str
) -> None:
    adapter = train(store, pruned, recorded, method="lora", rank=4, quantized_base=quantized, num_epochs=6)
    heldout = curve(adapter, "heldout_forward_kl_nats")
    assert min(heldout) < 0.95 * heldout[0]
    assert load_model(fold(store, pruned, adapter).path, "auto").dtype == torch.float32


def test_several_data_sets_train_together_by_shares(
    store: Store, model: ModelArtifact, pruned: ModelArtifact, recorded: DatasetArtifact, questions: DatasetArtifact
) -> None:
    config, inputs = RecordConfig(num_recorded=259, precision="float32"), RecordInputs(model=model, data=questions)
    answers = record.execute(config, inputs, store).artifact
    with pytest.raises(ValueError, match="shares has 1 numbers for 2 inputs of data"):
        finetune.forecast(CONFIG.with_changes(rows={"shares": [1.0]}), {"model": ({},), "data": ({}, {})})
    adapter = train(store, pruned, recorded, answers, shares=[0.5, 0.5], num_epochs=4)
    heldout = curve(adapter, "heldout_forward_kl_nats")
    assert min(heldout) < 0.9 * heldout[0]


def test_stopping_on_quality_looks_at_right_answers(
    store: Store, pruned: ModelArtifact, questions: DatasetArtifact, prose: DatasetArtifact
) -> None:
    changes = {"objectives": {"next_token": 1.0}, "learn": "answers", "stop_on": "quality", "num_epochs": 8}
    adapter = train(store, pruned, questions, **changes)
    quality = curve(adapter, "heldout_quality")
    assert len(quality) >= 2 and all(0.0 <= value <= 1.0 for value in quality)
    with pytest.raises(ValueError, match="no held-out row has choices or a verifier"):
        train(store, pruned, prose, **changes)


def test_a_running_mean_of_the_weights_is_kept_instead(
    store: Store, pruned: ModelArtifact, recorded: DatasetArtifact
) -> None:
    plain = train(store, pruned, recorded, num_epochs=3)
    averaged = train(store, pruned, recorded, num_epochs=3, average_decay=0.9)
    assert curve(plain, "train_forward_kl_nats") == curve(averaged, "train_forward_kl_nats"), (
        "the training itself is the same"
    )
    assert curve(plain, "heldout_forward_kl_nats")[-1] != curve(averaged, "heldout_forward_kl_nats")[-1]


def test_wrong_wishes_are_refused_in_one_line(
    store: Store, model: ModelArtifact, pruned: ModelArtifact, recorded: DatasetArtifact
) -> None:
    with pytest.raises(ValueError, match="no removed block"):
        train(store, model, recorded, adapt_blocks="after_cut")
    with pytest.raises(ValueError, match="targets nope name no matrix"):
        train(store, pruned, recorded, method="lora", targets=["nope"])
    with pytest.raises(ValueError, match=r"adapt\.full\.quantized_base"):
        FinetuneConfig(adapt={"kind": "full", "quantized_base": "nf4"})
    with pytest.raises(ValueError, match="vocabulary mismatch: model 10, teacher 8 tokens"):
        finetune.forecast(CONFIG, {"model": ({"vocab_size": 10},), "data": ({},), "teacher": ({"vocab_size": 8},)})
