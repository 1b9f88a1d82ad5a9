"""Fine-tuning: it learns, keeps the best, and after a SIGKILL it ends with the same weights bit for bit."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.plan import schedule_of
from attar.stages.finetune.stage import finetune
from attar.stages.runtime.progress import Metric, listen
from attar.stages.self_data.config import SelfDataConfig
from attar.stages.self_data.stage import SelfDataInputs, self_data
from tests.killed import kill_after_step

CONFIG = FinetuneConfig(
    adapt={"rank": 4, "dropout": 0.1},
    objectives={"next_token": 1.0, "forward_kl": 0.5},
    schedule={"num_epochs": 6, "learning_rate": 5e-3, "tokens_per_step": 512},
    compute={"tokens_per_micro_batch": 256, "precision": "float32"},
    heldout={"every": 2, "patience": 0},
    checkpoints={"every": 1},
)


@pytest.fixture(scope="module")
def data(shared_store: Store, model: ModelArtifact, questions: DatasetArtifact) -> DatasetArtifact:
    """The sums with the model's own distributions recorded."""
    config = SelfDataConfig(
        drawing={"max_new_tokens": 8}, batch_size=8, recorded={"num_candidates": 16}, precision="float32"
    )
    return self_data.execute(config, SelfDataInputs(model=model, data=questions), shared_store).artifact


def train(store: Store, config: FinetuneConfig, model: ModelArtifact, data: DatasetArtifact) -> AdapterArtifact:
    return finetune.execute(config, FinetuneInputs(model=model, data=(data,)), store).artifact


def weights(adapter: AdapterArtifact) -> dict[str, torch.Tensor]:
    return load_file(next(adapter.path.glob("*.safetensors")))


def curve(adapter: AdapterArtifact, name: str) -> list[tuple[int, float]]:
    lines = (adapter.path / "records" / "metrics.jsonl").read_text().splitlines()
    return [(entry["step"], entry["value"]) for entry in map(json.loads, lines) if entry["name"] == name]


def test_training_lowers_the_heldout_loss_and_is_tracked(
    store: Store, model: ModelArtifact, data: DatasetArtifact
) -> None:
    seen: list[Metric] = []
    with listen(lambda event: seen.append(event) if isinstance(event, Metric) else None):
        adapter = train(store, CONFIG, model, data)
    heldout = curve(adapter, "heldout_next_token_nats")
    assert heldout[0][0] == 0 and heldout[-1][1] < heldout[0][1] - 0.5
    names = {metric.name for metric in seen}
    assert {
        "train_next_token_nats",
        "train_forward_kl_nats",
        "heldout_forward_kl_nats",
        "learning_rate",
        "grad_norm",
    } <= names
    assert adapter.facts["base_fingerprint"] == model.fingerprint


def test_adapter_loads_with_peft_and_names_no_path_of_this_machine(
    shared_store: Store, model: ModelArtifact, data: DatasetArtifact
) -> None:
    adapter = train(shared_store, CONFIG, model, data)
    base = load_model(model.path, "float32")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = base(input_ids=ids).logits
        after = PeftModel.from_pretrained(base, adapter.path)(input_ids=ids).logits
    assert (after - before).abs().max() > 0.1
    assert str(model.path.parent) not in (adapter.path / "adapter_config.json").read_text()


@pytest.mark.parametrize(
    "changes",
    [{}, {"method": "full", "average_decay": 0.9, "dropout": 0.0, "learning_rate": 1e-3}],
    ids=["lora", "full"],
)
def test_sigkill_then_the_same_command_gives_the_same_weights_bit_for_bit(
    store: Store, shared_store: Store, model: ModelArtifact, data: DatasetArtifact, changes: dict
) -> None:
    config = CONFIG.with_changes(**changes)
    whole = train(shared_store, config, model, data)
    assert int(whole.facts["num_steps"]) >= 6
    step = kill_after_step(lambda: train(store, config, model, data), store.root, min_step=2)
    assert 2 <= step < int(whole.facts["num_steps"]), "killed in the middle"
    notes: list[str] = []
    with listen(lambda event: notes.append(str(event))):
        resumed = train(store, config, model, data)
    assert any(f"continuing at step {step} of" in note for note in notes)
    # of a running mean: what is kept is of a step after the kill, so that it holds what was averaged on both sides of it
    assert int(whole.facts["best_step"]) == int(resumed.facts["best_step"]) > step
    actual, reference = weights(whole), weights(resumed)
    assert actual.keys() == reference.keys() and all(torch.equal(actual[name], reference[name]) for name in actual)
    assert whole.fingerprint == resumed.fingerprint
    assert curve(whole, "train_next_token_nats") == curve(resumed, "train_next_token_nats")


def test_early_stop_keeps_the_best_adapter(store: Store, model: ModelArtifact, data: DatasetArtifact) -> None:
    """At a hopeless learning rate the held-out loss rises: the adapter kept is the one from before."""
    config = CONFIG.with_changes(
        schedule={"learning_rate": 3.0, "num_epochs": 40, "warmup_fraction": 0.0}, heldout={"patience": 2, "every": 1}
    )
    adapter = train(store, config, model, data)
    heldout = dict(curve(adapter, "heldout_next_token_nats"))
    assert int(adapter.facts["num_steps"]) < 40 * 2
    assert int(adapter.facts["best_step"]) == int(adapter.facts["num_steps"]) - 2
    assert heldout[int(adapter.facts["best_step"])] <= min(heldout.values()) + 0.5


def test_micro_batches_change_only_rounding(store: Store, model: ModelArtifact, data: DatasetArtifact) -> None:
    config = CONFIG.with_changes(schedule={"num_epochs": 2}, adapt={"dropout": 0.0})
    first = train(store, config.with_changes(compute={"tokens_per_micro_batch": 512}), model, data)
    second = train(store, config.with_changes(compute={"tokens_per_micro_batch": 128}), model, data)
    losses = curve(first, "train_next_token_nats"), curve(second, "train_next_token_nats")
    assert len(losses[0]) == len(losses[1]) >= 2
    for (_, actual), (_, reference) in zip(*losses, strict=True):
        assert actual == pytest.approx(reference, rel=1e-3), "the same rows in the same steps"


def test_micro_batches_suit_the_device_unless_they_are_told() -> None:
    untold, chosen = FinetuneConfig(), FinetuneConfig(compute={"tokens_per_micro_batch": 64})
    sizes = [
        [
            schedule_of(
                config.schedule, config.compute.tokens_per_micro_batch, torch.device(name)
            ).tokens_per_micro_batch
            for name in ("cpu", "cuda")
        ]
        for config in (untold, chosen)
    ]
    assert sizes == [[512, 4096], [64, 64]]
    with pytest.raises(ValueError, match="8 tokens hold no row; accepted: 0, or 16 and more"):
        FinetuneConfig(compute={"tokens_per_micro_batch": 8})


@pytest.mark.parametrize("method", ["lora", "full"])
def test_gradient_checkpointing_gives_the_same_weights_bit_for_bit(
    store: Store, model: ModelArtifact, data: DatasetArtifact, method: str
) -> None:
    config = CONFIG.with_changes(adapt={"kind": method}, schedule={"num_epochs": 1})
    whole = train(store, config, model, data)
    again = train(store, config.with_changes(compute={"gradient_checkpointing": True}), model, data)
    names = [path.name for path in whole.path.glob("*.safetensors")]
    assert names and whole.path != again.path
    for name in names:
        actual, reference = load_file(whole.path / name), load_file(again.path / name)
        assert actual and all(torch.equal(value, reference[key]) for key, value in actual.items())


def test_padded_rows_train_where_packing_would_leak(store: Store, data: DatasetArtifact) -> None:
    from attar.stages.contract import NoInputs
    from attar.stages.ingest.model import IngestModelConfig, ingest_model

    opt = ingest_model.execute(IngestModelConfig(source="random:opt"), NoInputs(), store).artifact
    notes: list[str] = []
    with listen(lambda event: notes.append(str(event))):
        adapter = train(store, CONFIG.with_changes(schedule={"num_epochs": 2}), opt, data)
    assert any("attends across packed rows" in note for note in notes)
    heldout = curve(adapter, "heldout_next_token_nats")
    assert heldout[-1][1] < heldout[0][1]


def test_kl_without_a_recorded_teacher_is_refused(
    store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    with pytest.raises(ValueError, match="no row has recorded teacher log-probabilities"):
        train(store, CONFIG, model, questions)
