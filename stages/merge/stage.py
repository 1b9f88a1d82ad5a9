"""Stage `merge`: fold an adapter into its base, or combine several students into one model, tensor by tensor."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from attar.compressors.merge.methods import check_num_models
from attar.registry.artifacts.facts import Facts, several
from attar.registry.artifacts.handles import AdapterArtifact, Artifact, ModelArtifact, Trainable
from attar.registry.artifacts.subjects import CLASSIFIER, DENOISER, ENCODER, IMAGES, TAGGER, Subject, subject_of
from attar.stages.artifacts.encoder.elastic import space_of, with_space
from attar.stages.artifacts.guidance_files import is_guidance
from attar.stages.artifacts.model.folder import load_model, model_facts
from attar.stages.artifacts.model.shared_vocabulary import refuse_other_ids
from attar.stages.artifacts.model.size_forecast import stored_bytes
from attar.stages.artifacts.model.tokenizer_files import companion_bytes
from attar.stages.contract import Forecast, stage
from attar.stages.finetune.kept_weights import WEIGHTS_FILE
from attar.stages.guidance.fold import check_guidance_fold, folded_guidance
from attar.stages.merge.config import MergeConfig, MergeInputs
from attar.stages.merge.denoiser import fold_denoiser
from attar.stages.merge.encoder import fold_encoder
from attar.stages.merge.fold_check import check_folded_logits, check_learned
from attar.stages.merge.image_classifier import fold_classifier
from attar.stages.merge.masks import merged_masks, write_masks
from attar.stages.merge.proof import prove_merged
from attar.stages.merge.search import Search
from attar.stages.merge.sources import FoldedAdapter, FoldedWeights, FolderSource, Source
from attar.stages.merge.stream import MergeOrder, Passthrough, write_merged
from attar.stages.merge.whole_weights import check_one_training
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.progress import metric, note

# What the interpreter's libraries and a chunk of every model may take beside the tensors.
FIXED_MEMORY_BYTES = 300e6
# How models of another subject than causal text take what was trained.
FOLDS: dict[Subject, Callable[..., Trainable]] = {
    ENCODER: fold_encoder,
    CLASSIFIER: fold_encoder,
    TAGGER: fold_encoder,
    IMAGES: fold_classifier,
    DENOISER: fold_denoiser,
}


def _forecast(config: MergeConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    students = inputs["students"]
    subject = subject_of(*inputs.get("base", ({},)))
    if subject in FOLDS:
        check_one_training(config, subject, students)
    _check_inputs(config, inputs)
    check_guidance_fold(config.method, config.guidance_scale, students)
    who, facts = ("base", inputs["base"][0]) if "base" in inputs else ("student 1", students[0])
    for student in students:
        for name in ("vocab_size", "num_blocks"):
            if name in facts and name in student and facts[name] != student[name]:
                raise ValueError(f"{name} mismatch: {who} {facts[name]}, student {student[name]}")
    num_parameters = float(facts.get("num_parameters", 0))
    made = dict(facts) if config.dtype == "auto" else {**facts, "dtype": config.dtype}
    made = with_space(made, space_of(students[0]))
    made |= merged_masks(students, is_searched=bool(config.search))
    largest = 4.0 * float(facts.get("vocab_size", 0)) * float(facts.get("hidden_size", 0))
    num_models = len(students) + (
        config.method != "fold" and any(_build(config, p).needs_base for p in config.trials())
    )
    peak = num_models * largest + FIXED_MEMORY_BYTES
    if "base" in inputs:  # an adapter is checked at work, in one copy of the base
        peak += 4.0 * num_parameters
    peak = max(peak, stored_bytes(made) + FIXED_MEMORY_BYTES)  # at the end the result is loaded, where there is room
    num_flops = 0.0
    if config.search:
        num_rows = config.search.max_rows * len(inputs["dev"])
        num_flops = 2.0 * num_parameters * num_rows * 200 * len(config.search.trials())
    return Forecast(made, num_flops, peak_memory_bytes=peak, disk_bytes=stored_bytes(made))


def _check_inputs(config: MergeConfig, inputs: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise ValueError when the method takes other inputs than it is given."""
    for params in config.trials():
        method = _build(config, params)
        check_num_models(config.method, method, len(inputs["students"]))
        if "base" not in inputs and (method.needs_base or config.method == "fold"):
            raise ValueError(f"method: {config.method!r} starts from a common base; give the input `base`")
    if bool(config.search) != ("dev" in inputs):
        given, missing = ("search", "the input `dev`") if config.search else ("the input `dev`", "search")
        raise ValueError(f"search: {given} is given without {missing}")
    for parent in inputs.get("dev", ()):
        if isinstance(parent, dict) and parent.get("num_heldout") == 0:
            raise ValueError(
                "dev: a data set holds no rows out, so an evaluation reads all of them; set heldout_fraction"
            )


def _build(config: MergeConfig, params: dict[str, Any]) -> Any:
    return Passthrough() if config.method == "fold" else config.build(params)


@stage("merge", version=3, forecast=_forecast, follows="base", mask_filling=("base", "students"))
def merge(config: MergeConfig, inputs: MergeInputs, workdir: Path) -> Trainable:
    """Make one plain model of a base and its students. One that does not write takes the weights that were trained on it.

    Every folded adapter is checked: merged logits equal the adapter's and differ from the base's. What was written is read again, loaded
    and decoded. Raises ValueError when a check fails, and for models that do not fit together or hold numbers that are not finite.
    """
    _check_inputs(config, _given(inputs))
    if inputs.base and (fold := FOLDS.get(inputs.base.subject)) is not None:
        return fold(inputs.base, inputs.students, workdir / "content")
    check_guidance_fold(config.method, config.guidance_scale, [student.facts for student in inputs.students])
    student = inputs.students[0]
    if inputs.base and not student.is_whole_model and is_guidance(student.path):
        model = load_model(inputs.base.path, "auto", pick_device())
        return folded_guidance(
            model,
            cast(ModelArtifact, inputs.base),
            cast(AdapterArtifact, student),
            config.guidance_scale,
            workdir / "content",
        )
    base = FolderSource(inputs.base.path) if inputs.base else None
    order = MergeOrder(
        method=_build(config, config.trials()[0]),
        students=tuple(_open(base, inputs.base, student) for student in inputs.students),
        base=base,
        dtype=None if config.dtype == "auto" else getattr(torch, config.dtype),
        max_shard_bytes=config.max_shard_bytes,
    )
    order.check()
    for number, source in enumerate(order.students, start=1):
        refuse_other_ids(order.template.folder, source.base.folder, (_first(order), f"student {number}"))
    for source, student in zip(order.students, inputs.students, strict=True):
        check_learned(student)
        if source.adapter is not None:  # checked as a whole, whatever becomes of it
            check_folded_logits(source.adapter, student.path)
    if config.search:
        search = Search(config.search, inputs.dev, workdir)
        best = search.best(config.trials(), lambda params, folder: _write_trial(config, order, params, folder))
        order = replace(order, method=_build(config, best))
    written = write_merged(order, workdir / "content", workdir / "shards")
    _report(written.branches)
    masks = write_masks(workdir / "content", [student.facts for student in inputs.students])
    prove_merged(workdir / "content", written.digests)
    facts = {**_facts(order), **_cut((inputs.base, *inputs.students)), **masks}
    return ModelArtifact.at(workdir / "content", facts, companion_bytes=companion_bytes(workdir / "content"))


def _first(order: MergeOrder) -> str:
    return "student 1" if order.base is None else "the base"


def _given(inputs: MergeInputs) -> dict[str, tuple[Any, ...]]:
    slots = {"base": (inputs.base,) if inputs.base else (), "students": inputs.students, "dev": inputs.dev}
    return {name: artifacts for name, artifacts in slots.items() if artifacts}


def _open(
    base: FolderSource | None,
    artifact: Artifact[Any] | None,
    student: AdapterArtifact | ModelArtifact,
) -> Source:
    if student.is_whole_model:
        return FolderSource(student.path)
    if base is None or artifact is None:
        raise ValueError("students: an adapter is folded into its base; give the input `base`")
    trained_on = cast(AdapterArtifact, student).facts.base_fingerprint
    if trained_on != artifact.fingerprint:
        raise ValueError(f"the adapter was trained on model {trained_on[:12]}, not on the base given here")
    if (student.path / WEIGHTS_FILE).exists():
        return FoldedWeights.open(base, student.path / WEIGHTS_FILE)
    return FoldedAdapter.open(base, student.path)


def _write_trial(config: MergeConfig, order: MergeOrder, params: dict[str, Any], folder: Path) -> None:
    scratch = folder.with_name("trial_shards")
    shutil.rmtree(scratch, ignore_errors=True)  # an interrupted trial's may be of other parameters
    write_merged(replace(order, method=_build(config, params)), folder, scratch)


def _report(branches: Counter[str]) -> None:
    note("tensors by branch: " + ", ".join(f"{branch} {count}" for branch, count in sorted(branches.items())))
    for branch, count in sorted(branches.items()):
        metric(f"num_{branch}_tensors", count)


def _facts(order: MergeOrder) -> Facts:
    dtype = order.dtype or order.template.dtype
    return {**model_facts(order.template.skeleton), "dtype": str(dtype).removeprefix("torch.")}


def _cut(parts: Sequence[Artifact[Any] | None]) -> Facts:
    """Return where the models were cut, if they agree: what was healed can be healed again behind its cut."""
    cuts = {
        several(part.facts, "removed_blocks")
        for part in parts
        if part is not None and part.is_whole_model and "removed_blocks" in part.facts
    }
    return {"removed_blocks": cuts.pop()} if len(cuts) == 1 else {}
