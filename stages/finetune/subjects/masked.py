"""The training of causal models that fill masks: what it is refused, and how it is put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attar.compressors.data.prompts import stop_token_ids
from attar.compressors.distill.examples.masked import with_whole_blocks
from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.loop.masked import MaskedText, sees_both_sides
from attar.compressors.distill.losses.objective import DISTRIBUTIONS
from attar.compressors.distill.teachers.student import Student
from attar.compressors.masked.form import MaskedForm
from attar.compressors.masked.hiding import Masking
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.subjects import CAUSAL, fills_masks, subject_of
from attar.stages.artifacts.model.folder import load_base, load_tokenizer
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.plan import TrainingPlan
from attar.stages.finetune.subjects.examples import assembled
from attar.stages.finetune.teacher_config import NO_CONTEXT, has_both_sides, kind_of_source, policy_of
from attar.stages.finetune.training_rows import TrainingRows
from attar.stages.finetune.training_run import TrainingRun

ADAPTED = ("lora", "rslora", "dora", "full", "last_blocks")
# Facts of sequences that are known of given answers, however they are learned.
KNOWN_FACTS = frozenset({"pass_rates"})


def check_masked_training(config: FinetuneConfig, model: Facts, *, has_teacher: bool) -> None:
    """Raise ValueError for what a student that fills masks does not learn by.

    And for a model that fills masks already, without `rows.masks` or with others.
    """
    masks, own = config.rows.masks, model.get("mask_token")
    if masks is None:
        if fills_masks(model):
            raise ValueError(
                f"rows.masks is null, but the model fills masks, which the next token would make it forget; accepted: {{token: {own!r}, "
                f"block_size: {model['mask_block_size']}}}"
            )
        return
    if (subject := subject_of(model)) is not CAUSAL:
        raise ValueError(
            f"rows.masks is for causal language models that learn to fill masks, and the model is {subject.words}; accepted: null"
        )
    if fills_masks(model) and (masks.token, masks.block_size) != (own, model["mask_block_size"]):
        raise ValueError(
            f"rows.masks has token {masks.token!r} and block_size {masks.block_size}, but the model fills {own!r} in blocks of "
            f"{model['mask_block_size']}; accepted: the same"
        )
    _refuse_others(config, has_teacher)
    for name, objective in config.reduction.objectives.items():
        needs = objective.requires
        if needs.views != DISTRIBUTIONS or needs.facts - KNOWN_FACTS:
            raise ValueError(
                f"objectives.{name} reads more than the distributions of given tokens, which is all that is learned of hidden ones; accepted: "
                "next_token, and losses between distributions"
            )


def _refuse_others(config: FinetuneConfig, has_teacher: bool) -> None:
    """Raise ValueError for settings of trainings that read from left to right."""
    kinds, num_shards = ", ".join(ADAPTED), config.compute.num_shards
    refused = {
        f"adapt.kind is {config.adapt.kind!r}": (config.adapt.kind not in ADAPTED, kinds),
        "the node has a live teacher, which reads what the student is to fill in": (
            has_teacher or config.teacher.kind not in ("auto", "recorded"),
            "a teacher that is recorded in the data, or none",
        ),
        "teacher.context tells a live teacher": (config.teacher.context != NO_CONTEXT, "none"),
        "teacher.run_once is true": (config.teacher.run_once, "false"),
        **{
            f"{name} is {kind_of_source(source)!r}": (kind_of_source(source) != "none", "none")
            for name, source in (("past", config.past), ("anchor", config.anchor))
        },
        "rollout.kind is another than 'data'": (policy_of(config.rollout) is not None, "data"),
        "rollout.both_sides is true": (has_both_sides(config.rollout), "false"),
        "rows.learn is 'all'": (config.rows.learn == "all", "answers"),
        "heldout.stop_on is 'quality'": (config.heldout.stop_on == "quality", "loss"),
        "compute.vocabulary_sample is given": (bool(config.compute.vocabulary_sample), "0"),
        f"compute.num_shards is {num_shards}": (num_shards > 1, "1"),
    }
    for what, (is_asked, accepted) in refused.items():
        if is_asked:
            raise ValueError(f"{what}, but rows.masks makes a student that fills masks; accepted with it: {accepted}")


def build_masked_run(plan: TrainingPlan, inputs: FinetuneInputs, workdir: Path) -> TrainingRun:
    """Return the training before its first step: student and rows in place. A recorded teacher lies in the rows.

    Raises ValueError for a token that cannot stand for a hidden one, and for a model that reads from left to right whatever mask it is given.
    """
    masking, learned = plan.adaptation.masking, plan.rows
    assert masking is not None, "who calls this looks"
    tokenizer = load_tokenizer(inputs.model.path)
    reads_record = plan.teaching.reads_record
    rows = TrainingRows.read(
        inputs.data, tokenizer, learn=learned.learn, max_tokens=learned.max_tokens, reads_record=reads_record
    )
    rows.check(plan.reduction.objectives, plan.heldout.stop_on, reads_record=reads_record)
    base = load_base(inputs.model.path, plan.dtype, plan.device, plan.adaptation.quantized_base)
    stops = stop_token_ids(tokenizer, base.generation_config)
    form = masked_form(masking, tokenizer, stops)
    _refuse_shown(form, [*rows.train, *rows.heldout])
    rows = replace(
        rows,
        train=[with_whole_blocks(example, form.block_size, stops) for example in rows.train],
        heldout=[with_whole_blocks(example, form.block_size, stops) for example in rows.heldout],
    )
    student = Student(plan.adaptation.method(base, plan.adaptation.first_block))
    if not sees_both_sides(student.eval(), form):
        raise ValueError(
            f"rows.masks: {type(base).__name__} reads from left to right whatever mask it is given; accepted: models that attend alone"
        )
    if plan.passes.gradient_checkpointing:
        student.checkpoint_blocks()
    return assembled(plan, student, rows, MaskedText(form, masking.hide, plan.seed), {}, workdir)  # type: ignore[arg-type]


def masked_form(masking: Masking, tokenizer: Any, stop_ids: Sequence[int]) -> MaskedForm:
    """Return the form with the token's id. Raises ValueError for a token that the tokenizer does not have, or that ends a text."""
    vocabulary = tokenizer.get_vocab()
    token_id = vocabulary.get(masking.token)
    if token_id is None:
        known = [token for token in tokenizer.get_added_vocab() if vocabulary[token] not in stop_ids]
        raise ValueError(
            f"rows.masks.token is {masking.token!r}, which is no token of the tokenizer; accepted: one that no text has, such as "
            f"{', '.join(map(repr, known[:5])) or 'a reserved token'}"
        )
    if token_id in stop_ids:
        raise ValueError(
            f"rows.masks.token is {masking.token!r}, which ends a text; accepted: a token that no text has"
        )
    return MaskedForm(mask_token=masking.token, mask_token_id=token_id, block_size=masking.block_size)


def _refuse_shown(form: MaskedForm, examples: Sequence[Example]) -> None:
    """Raise ValueError where a row has the token that is to stand for a hidden one."""
    for example in examples:
        if form.mask_token_id in (*example.prompt_ids, *example.answer_ids):
            raise ValueError(
                f"rows.masks.token is {form.mask_token!r}, which row {example.name or '(text)'} has; accepted: a token that no text has"
            )
