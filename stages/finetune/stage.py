"""Stage `finetune`: heal a pruned student on rows or text, with or without a teacher. Resumable to the same weights bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attar.compressors.data.prompts import stop_token_ids
from attar.compressors.distill.examples.steps import Steps
from attar.compressors.distill.loop.drawing import Rollouts
from attar.compressors.distill.loop.modality import CausalText
from attar.compressors.distill.loop.trainer import Trainer, accelerator_on
from attar.compressors.distill.teachers.student import Student
from attar.compressors.distill.teachers.teacher_sources import TeacherSource, recorded_states
from attar.compressors.models.adapted import plain_model
from attar.compressors.models.sharded import shard_blocks
from attar.compressors.models.trained_weights import WeightAverage, trained_weights
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import AdapterArtifact, Learned, Trainable
from attar.registry.artifacts.subjects import CLASSIFIER, DENOISER, ENCODER, IMAGES, TAGGER, subject_of
from attar.stages.artifacts.mixed_subjects import check_same_classes, refuse_mixed
from attar.stages.artifacts.model.folder import load_base, load_tokenizer
from attar.stages.contract import Forecast, check_covers, check_vocabulary, stage
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs, check_inputs
from attar.stages.finetune.distillation_config import check_adapt, check_record, check_start, uses_teacher
from attar.stages.finetune.kept_weights import save_adapter, write_trained
from attar.stages.finetune.plan import TrainingPlan
from attar.stages.finetune.sentence_scores import with_scores
from attar.stages.finetune.subjects.checks import check_subject
from attar.stages.finetune.subjects.classifier import build_classifier_run, reads_grades
from attar.stages.finetune.subjects.denoiser import build_denoiser_run
from attar.stages.finetune.subjects.encoder import build_encoder_run
from attar.stages.finetune.subjects.guided_denoiser import guidance_facts, write_guidance
from attar.stages.finetune.subjects.images import build_image_run
from attar.stages.finetune.subjects.masked import build_masked_run
from attar.stages.finetune.subjects.passes import can_pack, vocabulary_sample
from attar.stages.finetune.subjects.vectors import MAKES, behind_vectors, check_given, save_vectors
from attar.stages.finetune.teacher_config import policy_of, reads_record
from attar.stages.finetune.teaching import build_rollouts, build_teacher_sources, with_hints
from attar.stages.finetune.training_rows import Mixture, TrainingRows, with_prefix, with_teacher_states
from attar.stages.finetune.training_run import TrainingRun, freeze_named
from attar.stages.finetune.training_work import learned_facts, training_flops
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.runtime.process_group import run_in_group
from attar.stages.runtime.progress import note

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# How the training of models of another subject than causal text is put together.
BUILDS = {ENCODER: build_encoder_run, IMAGES: build_image_run, DENOISER: build_denoiser_run}
BUILDS |= dict.fromkeys((CLASSIFIER, TAGGER), build_classifier_run)
# What writes adapters that PEFT does not know, by the kind of `adapt`.
WRITES = {"guidance": write_guidance}


def _forecast(config: FinetuneConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, data = inputs["model"][0], inputs["data"]
    teacher, teachers = inputs.get("teacher", ()), inputs.get("teachers", ())
    if config.rows.shares and len(config.rows.shares) != len(data):
        raise ValueError(f"shares has {len(config.rows.shares)} numbers for {len(data)} inputs of data")
    check_inputs(
        config,
        has_teacher=bool(teacher),
        has_anchor=bool(inputs.get("anchor")),
        has_fitted=bool(inputs.get("fitted")),
        num_pooled=len(teachers),
    )
    objectives = config.reduction.objectives
    check_subject(config, model, data, (*teacher, *teachers))
    is_recorded = reads_record(config.teacher.record, bool(teacher)) and not reads_grades(config, model)
    if is_recorded and uses_teacher(objectives, policy_of(config.rollout)):
        check_record(objectives, data, config.teacher.context)
    refuse_mixed(model, {"teacher": teacher, "teachers": teachers, "anchor": inputs.get("anchor", ())})
    check_same_classes(model, teacher)
    for who, others in (("teacher", teacher), ("anchor", inputs.get("anchor", ()))):
        for other in others:  # one with more tokens speaks over those of the model
            check_covers(other, model, who)
    for dataset in data:
        check_vocabulary(model, dataset, "recorded teacher", "accepted: a record of a model with the same tokens")
    check_adapt(config.adapt, model)
    for start in inputs.get("start", ()):
        check_start(config.adapt.kind, model, start)
    guided = guidance_facts(objectives) if config.adapt.kind == "guidance" else {}
    return Forecast(
        {**learned_facts(config.adapt, model, config.rows.masks), **guided},
        num_flops=training_flops(
            config.schedule,
            config.heldout.every,
            model,
            data,
            live=[*teacher, *teachers, *inputs.get("anchor", ())],
            is_frozen=not config.adapt.trains_base,
            is_rolled_out=policy_of(config.rollout) is not None,
        )
        * (subject_of(model) not in (IMAGES, DENOISER)),  # counted by tokens, of which an image has none
        peak_memory_bytes=12.0 * float(model.get("num_parameters", 0)),
    )


@stage(
    "finetune",
    version=5,
    forecast=_forecast,
    num_devices=lambda config: config.compute.num_shards,
    output=lambda config, kind: MAKES.get(config.adapt.kind, AdapterArtifact),
    check=check_given,
    mask_filling=("model",),
)
def finetune(config: FinetuneConfig, inputs: FinetuneInputs, workdir: Path) -> Learned:
    """Train on the student what the method makes trainable, keeping the best state seen on the held-out rows.

    Adapters or the base's own weights; of a frozen base vectors that stand before the prompt, or a compressor that makes them.

    Raises ValueError when an objective lacks its teacher, there is nothing to train on, or a step gives no number.
    """
    if config.compute.num_shards > 1:
        return _in_shards(config, inputs, workdir)
    plan = TrainingPlan.of(config, inputs)
    run = _trained(plan, inputs, workdir)
    if plan.adaptation.before_prompt is not None:
        return save_vectors(run, plan.adaptation, plan.teaching.context, inputs, workdir / "content")
    write = WRITES.get(plan.adaptation.kind, write_trained)
    return save_adapter(run, plan.adaptation, inputs.model, workdir / "content", write)


def _trained(plan: TrainingPlan, inputs: FinetuneInputs, workdir: Path) -> TrainingRun:
    device = plan.device
    # PEFT draws A, and dropout its masks, from the global generator: seeded here, and left to the caller as it was
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else None, device_type=device.type):
        torch.manual_seed(plan.seed)
        build = BUILDS.get(inputs.model.subject, build_run) if plan.adaptation.masking is None else build_masked_run
        run = build(plan, inputs, workdir)
        run.resume()
        run.train()
    return run


def _in_shards(config: FinetuneConfig, inputs: FinetuneInputs, workdir: Path) -> AdapterArtifact:
    """Train in several processes that hold a part of the blocks each. Raises ValueError for more of them than there are GPUs."""
    num_shards, device = config.compute.num_shards, pick_device()
    if device.type != "cpu" and num_shards > torch.accelerator.device_count():
        raise ValueError(
            f"compute.num_shards is {num_shards}, one a GPU, but there are {torch.accelerator.device_count()}; accepted: up to as many"
        )
    # decided once: what a processor is measured at, each would measure anew
    dtype = str(pick_dtype(config.compute.precision, device)).removeprefix("torch.")
    work = partial(_train_shard, config.with_changes(compute={"precision": dtype}), inputs, workdir)
    note(f"{num_shards} processes, each with its part of the blocks")
    return run_in_group(work, num_shards, device)


def _train_shard(config: FinetuneConfig, inputs: FinetuneInputs, workdir: Path) -> AdapterArtifact | None:
    """Train as one of the processes. The first one writes what all have learned."""
    plan, rank = TrainingPlan.of(config, inputs), torch.distributed.get_rank()
    folder = workdir / f"shard-{rank}"
    folder.mkdir(parents=True, exist_ok=True)
    run = _trained(plan, inputs, folder)
    run.gather()
    return save_adapter(run, plan.adaptation, inputs.model, workdir / "content") if rank == 0 else None


def build_run(plan: TrainingPlan, inputs: FinetuneInputs, workdir: Path) -> TrainingRun:
    """Return the training before its first step: student, teacher, rows and frozen states in place."""
    objectives, teaching, limit = plan.reduction.objectives, plan.teaching, plan.schedule.tokens_per_micro_batch
    tokenizer = load_tokenizer(inputs.model.path)
    rows = _rows(plan, inputs, tokenizer)
    base, student = _student(plan, inputs.model)
    if (before := plan.adaptation.before_prompt) is not None:
        rows = behind_vectors(before, teaching.context, inputs, rows, tokenizer, student)
    is_packed = plan.passes.is_packed and can_pack(student, rows.train, plan.dtype)
    steps = Steps(Mixture(rows.train, rows.sources, plan.rows.shares, plan.seed), rows.train, plan.schedule)
    teacher_sources = build_teacher_sources(teaching.sources, student, inputs.model.path, plan.dtype, plan.device)
    teacher = teacher_sources.get("teacher")
    rows = with_scores(
        rows, objectives.values(), tokenizer, student, teacher, tokens_per_batch=limit, is_packed=is_packed
    )
    rollouts = _rollouts(plan, rows, tokenizer, base, teacher)
    if rollouts is None:
        rows = with_prefix(rows, steps.used(), student, workdir, limit, is_packed)
    if teacher is not None and rollouts is None and teacher.follow(student, rows.train[0]):
        note(f"the teacher begins with the same {student.first_block} blocks and goes on from there")
    if teaching.is_run_once and teacher is not None and teacher.own_model is not None:
        rows = with_teacher_states(rows, steps.used(), teacher, student, workdir, limit, is_packed)
        teacher_sources["teacher"] = recorded_states(teacher.own_model.head)
    sample = vocabulary_sample(plan.passes.vocabulary_sample, rows.train, base.config.vocab_size, plan.seed)
    trainer = Trainer(
        student,
        rows.train,
        steps,
        plan.reduction,
        CausalText(is_packed, sample),
        accelerator_on(plan.device),
        teacher_sources=teacher_sources,
        rollouts=rollouts,
        average=WeightAverage(plan.average_decay, trained_weights(student)) if plan.average_decay else None,
    )
    ends: dict[str, Any] = {"heldout": plan.heldout, "checkpoints": plan.checkpoints, "max_minutes": plan.max_minutes}
    return TrainingRun(trainer, rows, tokenizer, workdir, **ends)


def _rows(plan: TrainingPlan, inputs: FinetuneInputs, tokenizer: Any) -> TrainingRows:
    """Return the rows with what the teacher reads beside them."""
    teaching, learned = plan.teaching, plan.rows
    rows = TrainingRows.read(
        inputs.data,
        tokenizer,
        learn=learned.learn,
        max_tokens=learned.max_tokens,
        reads_record=teaching.reads_record,
    )
    rows.check(plan.reduction.objectives, plan.heldout.stop_on, reads_record=teaching.reads_record)
    if plan.adaptation.before_prompt is not None:  # each data set shows its own
        return rows
    return with_hints(rows, tokenizer, teaching.context, has_both_sides=teaching.has_both_sides)


def _rollouts(
    plan: TrainingPlan, rows: TrainingRows, tokenizer: Any, base: PreTrainedModel, teacher: TeacherSource | None
) -> Rollouts | None:
    """Return what writes each step's answers, or None when the data does."""
    if plan.rollout is None:
        return None
    return build_rollouts(
        plan.rollout,
        rows,
        tokenizer,
        stop_token_ids(tokenizer, base.generation_config),
        plan.teaching.context,
        teacher,
        objectives=plan.reduction.objectives.values(),
        seed=plan.seed,
    )


def _student(plan: TrainingPlan, model: Trainable) -> tuple[PreTrainedModel, Student]:
    """Return the base, and the student that learns on it."""
    adaptation = plan.adaptation
    is_sharded = plan.passes.num_shards > 1
    device = torch.device("cpu") if is_sharded else plan.device  # no device needs to hold all of it
    base = load_base(model.path, plan.dtype, device, adaptation.quantized_base)
    adapted = freeze_named(adaptation.method(base, adaptation.first_block), adaptation.freeze)
    if is_sharded:
        from torch.distributed.device_mesh import init_device_mesh  # a plan need not wait for it

        shard_blocks(plain_model(adapted), init_device_mesh(plan.device.type, (plan.passes.num_shards,)))
    student = Student(adapted)
    if plan.passes.gradient_checkpointing:
        student.checkpoint_blocks()
    return base, student
