"""Stage `finetune`: heal a pruned student with a LoRA adapter on self-distilled rows, resumable to the same weights bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from pydantic import Field, field_validator

from compressors.adapt.lora import add_lora
from compressors.catalogue import build, did_you_mean
from compressors.distill.loop import Schedule, Trainer, packing_matches
from compressors.distill.objectives import OBJECTIVES
from compressors.distill.packing import Example
from compressors.self_data.prompts import chat_prompt
from registry.artifact import AdapterArtifact, DatasetArtifact, Facts, ModelArtifact
from stages.contract import Forecast, StageConfig, stage
from stages.device import Precision, pick_device, pick_dtype
from stages.model_folder import load_model, load_tokenizer
from stages.progress import metric, note
from stages.rows import Row, Split, read_rows
from stages.teacher_shards import TeacherRecord
from stages.training_run import TrainingRun

# Logits of packed and separate rows differ by rounding; examples that see each other differ by far more.
PACKING_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


class FinetuneConfig(StageConfig):
    """The adapter, what it learns from, and for how long."""

    rank: int = Field(default=16, ge=1)
    """LoRA rank."""

    alpha: float = Field(default=32.0, gt=0)
    """LoRA scale: the update is multiplied by alpha / rank."""

    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the adapter's input, in [0, 1)."""

    targets: list[str] = []
    """Names of the matrices to adapt, such as q_proj; empty: every matrix of every block."""

    objectives: dict[str, float] = {"next_token": 1.0}
    """Weight of each objective: next_token, and forward_kl where the data has recorded teacher log-probabilities."""

    num_epochs: int = Field(default=2, ge=1)
    """Passes over the training rows, unless training stops early."""

    learning_rate: float = Field(default=5e-4, gt=0)
    """Peak learning rate of AdamW, after the warm-up; it falls to zero along a cosine."""

    warmup_fraction: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of the steps in which the learning rate rises."""

    weight_decay: float = Field(default=0.0, ge=0.0)
    """AdamW weight decay of the adapter."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""

    tokens_per_step: int = Field(default=2048, ge=16)
    """Tokens, prompts included, behind one optimizer step."""

    tokens_per_micro_batch: int = Field(default=1024, ge=16)
    """Tokens in one forward and backward pass; less needs less memory and changes nothing else."""

    max_tokens: int = Field(default=1024, ge=8)
    """Rows longer than this, prompt included, are cut at the end."""

    is_packed: bool = True
    """Put several rows into one sequence where the model keeps them apart (checked before training)."""

    eval_every: int = Field(default=10, ge=1)
    """Steps between two looks at the held-out rows."""

    patience: int = Field(default=3, ge=0)
    """Stop after this many looks without a better held-out loss; 0: never. The best adapter seen is the one kept."""

    checkpoint_every: int = Field(default=10, ge=1)
    """Steps between two checkpoints, each all that is needed to continue."""

    seed: int = 0
    """Seed of the adapter's initial weights and of the order of rows."""

    precision: Precision = "auto"
    """Dtype of the frozen base; the adapter is always float32."""

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, value: dict[str, float]) -> dict[str, float]:
        for name, weight in value.items():
            if name not in OBJECTIVES:
                raise ValueError(f"unknown objective {name!r}.{did_you_mean(name, OBJECTIVES)}")
            if weight < 0:
                raise ValueError(f"weight of {name} is {weight}; accepted: 0 or more")
        if not any(value.values()):
            raise ValueError("no objective has a weight above 0")
        return value


@dataclass(frozen=True, kw_only=True)
class FinetuneInputs:
    """The student and the rows it learns from."""

    model: ModelArtifact
    data: DatasetArtifact


def _forecast(config: FinetuneConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, data = inputs["model"][0], inputs["data"][0]
    if config.objectives.get("forward_kl") and data.get("num_recorded") == 0:
        raise ValueError("objectives.forward_kl: the data set has no recorded teacher; set num_recorded in self_data")
    if data.get("vocab_size", model.get("vocab_size")) != model.get("vocab_size", data.get("vocab_size")):
        raise ValueError(
            f"vocabulary mismatch: model {model['vocab_size']}, recorded teacher {data['vocab_size']} tokens"
        )
    num_parameters = float(model.get("num_parameters", 0))
    num_tokens = float(data.get("num_rows", 0)) * 200.0 * config.num_epochs
    facts: Facts = {"rank": config.rank}
    if "vocab_size" in model:
        facts["vocab_size"] = model["vocab_size"]
    # forward, and a backward that skips the frozen weights' own gradients
    return Forecast(facts, num_flops=4.0 * num_parameters * num_tokens, peak_memory_bytes=12.0 * num_parameters)


@stage("finetune", version=2, forecast=_forecast)
def finetune(config: FinetuneConfig, inputs: FinetuneInputs, workdir: Path) -> AdapterArtifact:
    """Train a LoRA adapter on the student, keeping the one with the lowest held-out loss.

    Raises ValueError when an objective lacks its teacher or there is nothing to train on.
    """
    device = pick_device()
    dtype = pick_dtype(config.precision, device)
    base = load_model(inputs.model.path, dtype, device)
    examples = _examples(config, inputs)
    if not examples["train"]:
        raise ValueError("the data set has no training rows")
    if config.objectives.get("forward_kl") and not any(example.top_ids is not None for example in examples["train"]):
        raise ValueError("objectives.forward_kl: no row has recorded teacher log-probabilities")
    # PEFT draws A, and dropout its masks, from the global generator: seeded here, and left to the caller as it was
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else None, device_type=device.type):
        torch.manual_seed(config.seed)
        model = add_lora(base, rank=config.rank, alpha=config.alpha, dropout=config.dropout, targets=config.targets)
        is_packed = config.is_packed and _can_pack(model, examples["train"], device, dtype)
        run = TrainingRun(
            _trainer(config, model, examples["train"], is_packed),
            examples["heldout"],
            workdir,
            eval_every=config.eval_every,
            checkpoint_every=config.checkpoint_every,
            patience=config.patience,
        )
        run.resume()
        run.train()
    return _save(config, run, inputs, workdir / "content")


def _trainer(config: FinetuneConfig, model: PeftModel, examples: Sequence[Example], is_packed: bool) -> Trainer:
    schedule = Schedule(
        num_epochs=config.num_epochs,
        learning_rate=config.learning_rate,
        warmup_fraction=config.warmup_fraction,
        tokens_per_step=config.tokens_per_step,
        tokens_per_micro_batch=config.tokens_per_micro_batch,
        max_grad_norm=config.max_grad_norm,
        weight_decay=config.weight_decay,
        seed=config.seed,
    )
    weights = {name: weight for name, weight in config.objectives.items() if weight}
    objectives = {name: build(OBJECTIVES, name) for name in weights}
    accelerator = Accelerator(cpu=next(model.parameters()).device.type == "cpu")
    return Trainer(model, examples, objectives, weights, schedule, is_packed, accelerator)


def _can_pack(model: PeftModel, examples: Sequence[Example], device: torch.device, dtype: torch.dtype) -> bool:
    probe = sorted(examples, key=lambda example: example.num_tokens)[:2]
    if len(probe) < 2 or packing_matches(model, probe, device, PACKING_TOLERANCE.get(dtype, 5e-2)):
        return True
    note("this model attends across packed rows: one row a sequence instead")
    return False


def _examples(config: FinetuneConfig, inputs: FinetuneInputs) -> dict[Split, list[Example]]:
    """Return the examples of each split; rows and recorded teacher are read once for both."""
    tokenizer = load_tokenizer(inputs.model.path)
    teacher = TeacherRecord(inputs.data.path)
    examples: dict[Split, list[Example]] = {"train": [], "heldout": []}
    for row in read_rows(inputs.data.path / "rows.jsonl"):
        made = _row_examples(config, row, tokenizer, teacher)
        examples[row.split].extend(example for example in made if example.answer_ids)
    return examples


def _row_examples(config: FinetuneConfig, row: Row, tokenizer: Any, teacher: TeacherRecord) -> list[Example]:
    """Return one example of a question or of a model's own text; plain text gives one for each `max_tokens`."""
    if row.question or row.answer_ids:
        return [_example(config, row, tokenizer, teacher)]
    ids = tokenizer(row.text).input_ids
    pieces = [ids[start : start + config.max_tokens] for start in range(0, len(ids), config.max_tokens)]
    return [Example(piece[:1], piece[1:]) for piece in pieces]


def _example(config: FinetuneConfig, row: Row, tokenizer: Any, teacher: TeacherRecord) -> Example:
    prompt = row.prompt_ids or chat_prompt(tokenizer, row.question)
    answer = row.answer_ids or [
        *tokenizer(row.answer, add_special_tokens=False).input_ids,
        tokenizer.eos_token_id,
    ]
    answer = answer[: max(0, config.max_tokens - len(prompt))]
    recorded = teacher.of(row) if config.objectives.get("forward_kl") else None
    if recorded is None:
        return Example(prompt, answer)
    return Example(prompt, answer, recorded[0][: len(answer)], recorded[1][: len(answer)])


def _save(config: FinetuneConfig, run: TrainingRun, inputs: FinetuneInputs, content: Path) -> AdapterArtifact:
    model = run.trainer.accelerator.unwrap_model(run.trainer.model)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in run.best["weights"].items():
            parameters[name].copy_(value)
    # the base is named by content: a path would tie the adapter to this machine
    model.peft_config["default"].base_model_name_or_path = f"attar:{inputs.model.fingerprint}"
    model.save_pretrained(content, safe_serialization=True, save_embedding_layers=False)
    (content / "README.md").unlink(missing_ok=True)
    metric("best_step", run.best["step"])
    note(f"kept the adapter of step {run.best['step']} (held-out loss {run.best['loss']:.4f} nats)")
    return AdapterArtifact.at(
        content,
        rank=config.rank,
        num_steps=run.trainer.step,
        best_step=run.best["step"],
        base_fingerprint=inputs.model.fingerprint,
        vocab_size=inputs.model.facts["vocab_size"],
    )
