"""Stage `finetune`: heal a pruned student on rows or text, with or without a teacher; resumable to the same weights bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.examples.steps import Steps
from attar.compressors.distill.loop.heldout import packing_matches
from attar.compressors.distill.loop.modality import CausalText
from attar.compressors.distill.loop.trainer import Trainer
from attar.compressors.distill.losses.targets.vocabulary import VocabularySample
from attar.compressors.distill.teachers.parties import KeptStates
from attar.compressors.distill.teachers.student import Student
from attar.compressors.models.trained_weights import WeightAverage, trained_weights
from attar.registry.artifacts.handles import AdapterArtifact, Facts
from attar.stages.artifacts.model.folder import load_base, load_tokenizer
from attar.stages.contract import Forecast, check_vocabulary, stage
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs, check_parties
from attar.stages.finetune.distillation_config import check_record, context_of
from attar.stages.finetune.sentence_scores import with_scores
from attar.stages.finetune.teaching import build_parties, build_rollouts, with_hints
from attar.stages.finetune.training_rows import Mixture, TrainingRows, with_prefix, with_teacher_states
from attar.stages.finetune.training_run import TrainingRun, save_adapter
from attar.stages.finetune.training_work import training_flops
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.progress import note

# Logits of packed and separate rows differ by rounding; examples that see each other differ by far more.
PACKING_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


def _forecast(config: FinetuneConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, data = inputs["model"][0], inputs["data"]
    teacher = inputs.get("teacher", ())
    if config.shares and len(config.shares) != len(data):
        raise ValueError(f"shares has {len(config.shares)} numbers for {len(data)} inputs of data")
    check_parties(config, bool(teacher), bool(inputs.get("anchor")), bool(inputs.get("fitted")))
    if config.reads_record(bool(teacher)):
        check_record(config.reduction.objectives, data, context_of(config.teacher_context))
    others = [("recorded teacher", data), ("teacher", teacher), ("anchor", inputs.get("anchor", ()))]
    for who, other in [(who, one) for who, several in others for one in several]:
        check_vocabulary(model, other, who)
    if config.adapt_blocks == "after_cut" and model and not model.get("removed_blocks", "unknown"):
        raise ValueError("adapt_blocks is 'after_cut', but no block of the model was removed")
    facts: Facts = {"method": config.method}
    if "vocab_size" in model:
        facts["vocab_size"] = model["vocab_size"]
    return Forecast(
        facts,
        num_flops=training_flops(
            config,
            model,
            data,
            live=[*teacher, *inputs.get("anchor", ())],
            is_frozen=config.method not in ("full", "last_blocks"),
            is_rolled_out=config.rollout != "data",
        ),
        peak_memory_bytes=12.0 * float(model.get("num_parameters", 0)),
    )


@stage("finetune", version=4, forecast=_forecast)
def finetune(config: FinetuneConfig, inputs: FinetuneInputs, workdir: Path) -> AdapterArtifact:
    """Train on the student what the method makes trainable, keeping the best state seen on the held-out rows.

    Raises ValueError when an objective lacks its teacher, there is nothing to train on, or a step gives no number.
    """
    if inputs.fitted is not None:
        config = config.with_fitted(float(inputs.fitted.facts["value"]))
    device = pick_device()
    # PEFT draws A, and dropout its masks, from the global generator: seeded here, and left to the caller as it was
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else None, device_type=device.type):
        torch.manual_seed(config.seed)
        run = build_run(config, inputs, workdir)
        run.resume()
        run.train()
    return save_adapter(run, inputs, workdir / "content")


def build_run(config: FinetuneConfig, inputs: FinetuneInputs, workdir: Path) -> TrainingRun:
    """Return the training before its first step: student, teacher, rows and frozen states in place."""
    device = pick_device()
    dtype = pick_dtype(config.precision, device)
    tokenizer = load_tokenizer(inputs.model.path)
    rows = with_hints(config, TrainingRows.read(config, inputs, tokenizer), tokenizer)
    base = load_base(inputs.model.path, dtype, device, config.quantized_base)
    student = Student(config.adapt_method(base, first_adapted_block(config, inputs.model.facts)))
    if config.gradient_checkpointing:
        student.checkpoint_blocks()
    is_packed = config.is_packed and _can_pack(student, rows.train, dtype)
    schedule = config.schedule(device)
    steps = Steps(Mixture(rows.train, rows.sources, config.shares, config.seed), rows.train, schedule)
    parties = build_parties(config, inputs, student, dtype, device)
    rows = with_scores(config, rows, tokenizer, student, parties.get("teacher"), is_packed)
    rollouts = build_rollouts(config, rows, tokenizer, base, parties.get("teacher"))
    used, limit = steps.used(), schedule.tokens_per_micro_batch
    if rollouts is None:
        rows = with_prefix(rows, used, student, workdir, limit, is_packed)
    teacher = parties.get("teacher")
    if teacher is not None and rollouts is None and teacher.follow(student, rows.train[0]):
        note(f"the teacher begins with the same {student.first_block} blocks and goes on from there")
    if config.run_teacher_once and teacher is not None and teacher.own_model is not None:
        rows = with_teacher_states(rows, used, teacher, student, workdir, limit, is_packed)
        parties["teacher"] = KeptStates(teacher.own_model.head)
    trainer = Trainer(
        student,
        rows.train,
        steps,
        config.reduction,
        CausalText(is_packed, _sample(config, rows.train, base.config.vocab_size)),
        Accelerator(cpu=device.type == "cpu"),
        parties=parties,
        rollouts=rollouts,
        average=WeightAverage(config.average_decay, trained_weights(student)) if config.average_decay else None,
    )
    return TrainingRun(config, trainer, rows, tokenizer, workdir)


def first_adapted_block(config: FinetuneConfig, facts: Facts) -> int:
    """Return the first block that learns: under after_cut the one before the cut, which may hold the patch.

    Raises ValueError when the model's record does not say where it was cut.
    """
    if config.adapt_blocks == "all":
        return 0
    removed = str(facts.get("removed_blocks", ""))
    if not removed:
        raise ValueError("adapt_blocks is 'after_cut', but the model's record names no removed block; use 'all'")
    return max(0, min(map(int, removed.split(","))) - 1)


def _sample(config: FinetuneConfig, examples: Sequence[Example], vocab_size: int) -> VocabularySample | None:
    if not 0 < config.vocabulary_sample < vocab_size:
        return None
    note(f"comparing over {config.vocabulary_sample:,} of {vocab_size:,} vocabulary entries at each step")
    answers = (example.answer_ids for example in examples)
    return VocabularySample.of(answers, num_entries=config.vocabulary_sample, vocab_size=vocab_size, seed=config.seed)


def _can_pack(student: Student, examples: Sequence[Example], dtype: torch.dtype) -> bool:
    probe = sorted(examples, key=lambda example: example.num_tokens)[:2]
    if len(probe) < 2 or packing_matches(student, probe, PACKING_TOLERANCE.get(dtype, 5e-2)):
        return True
    note("this model attends across packed rows: one row a sequence instead")
    return False
