"""Train a denoiser by the same stage and loop. Images are its examples, predictions its views, another denoiser its teacher."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from attar.compressors.diffusion.discriminator import FeatureDiscriminator
from attar.compressors.distill.examples.noised import NoisedImage, NoisedStates
from attar.compressors.distill.loop.denoised import NoisedImages
from attar.compressors.distill.losses.denoising.catalogue import DENOISING_LOSSES
from attar.compressors.distill.losses.denoising.views import (
    CRITIC,
    DISCRIMINATOR,
    NOISED_DISCRIMINATOR,
    PREDICTIONS,
)
from attar.compressors.distill.losses.objective import projections_read
from attar.compressors.distill.losses.views import ViewName
from attar.compressors.distill.teachers.denoiser import DenoiserStudent
from attar.compressors.distill.teachers.teacher_sources import OtherModel, StudentItself, TeacherSource
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.subjects import DENOISER
from attar.stages.artifacts.dataset.rows import Split
from attar.stages.artifacts.denoiser.folder import Denoiser, load_denoiser
from attar.stages.artifacts.denoiser.images import check_images, has_any_class, read_images
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.plan import TrainingPlan
from attar.stages.finetune.subjects.examples import ExampleRows, PartOf, assembled
from attar.stages.finetune.subjects.guided_denoiser import check_adaptation, guided_student, rolled_paths
from attar.stages.finetune.subjects.limits import refuse_language_settings
from attar.stages.finetune.training_run import TrainingRun

ACCEPTED = ", ".join(DENOISING_LOSSES)
# Losses that learn by each other: those that read a second net, and what trains it, by the net.
TRAINED_BY = {
    CRITIC: "score_distillation and fake_score learn by each other; accepted: both, the second net following the first",
    NOISED_DISCRIMINATOR: "a loss that reads a discriminator of noised images and what trains it learn by each other; accepted: both, "
    "adversarial with is_noised or divergence_distillation, and discriminator with is_noised: true",
    DISCRIMINATOR: "adversarial and discriminator learn by each other; accepted: both, with the same is_noised",
}
# Parameters of losses that the class which means any stands behind, with what asks for nothing.
OF_ANY_CLASS = {"drop_fraction": 0.0, "guidance_scale": 1.0, "max_scale": 1.0}


def check_denoiser_training(config: FinetuneConfig, *, has_teacher: bool) -> None:
    """Raise ValueError for what is asked of a training that a denoiser's has not."""
    _check_objectives(config.reduction.objectives, has_teacher=has_teacher)
    if config.teacher.kind not in ("auto", "input"):
        raise ValueError(f"teacher.kind is {config.teacher.kind!r}; accepted for a denoiser: auto, the input `teacher`")
    if config.teacher.run_once:
        raise ValueError(
            "teacher.run_once is true, but a denoiser is shown other noise at every step; accepted for it: false"
        )
    refuse_language_settings(config, DENOISER)
    check_adaptation(config.adapt.kind, config.reduction.objectives)


def _check_objectives(objectives: Mapping[str, Any], *, has_teacher: bool) -> None:
    """Raise ValueError for losses of another kind of model, without what they read, and that do not begin alike."""
    for name, objective in objectives.items():
        if objective.requires.views != PREDICTIONS:
            raise ValueError(
                f"objectives.{name} reads {objective.requires.views}, and the model is a denoiser; accepted: {ACCEPTED}"
            )
        if "teacher" in objective.requires.sources and not has_teacher:
            raise ValueError(
                f"objectives.{name} reads the teacher, but the node has no input `teacher`; accepted: that input, another denoiser"
            )
    if not {objective.start for objective in objectives.values()} - {None}:
        raise ValueError(
            f"objectives are {', '.join(objectives)}, which draw no states; accepted: beside it what it follows, such as score_distillation"
        )
    if len({objective.start for objective in objectives.values()} - {None}) > 1:
        raise ValueError(
            f"objectives {', '.join(objectives)} begin at other states; accepted: those of one training, a node each for the others"
        )
    for net, line in TRAINED_BY.items():
        readers = [objective for objective in objectives.values() if net in objective.requires.projections]
        if len({objective.start is None for objective in readers}) == 1:
            raise ValueError(line)


def check_denoiser_data(config: FinetuneConfig, model: Facts, data: Sequence[Facts], teacher: Sequence[Facts]) -> None:
    """Raise ValueError for images that the denoiser does not take, and a teacher of other images or another prediction."""
    check_images(model, data)
    num_classes = max((int(facts.get("num_classes", 0)) for facts in data), default=0)
    if num_classes and (unknown := [label for label in config.rows.classes if label >= num_classes]):
        raise ValueError(
            f"rows.classes has {unknown[0]}, but the data has {num_classes} classes; accepted: 0 to {num_classes - 1}"
        )
    for other in teacher:
        for name in ("sample_size", "num_image_channels", "num_labels", "num_timesteps", "prediction"):
            if name in other and name in model and other[name] != model[name]:
                raise ValueError(
                    f"the teacher's {name} is {other[name]}, the model's {model[name]}; accepted: the same, which one scheduler serves"
                )
    for name, objective in config.reduction.objectives.items():
        for parameter, plain in OF_ANY_CLASS.items():
            value = getattr(objective, parameter, plain)
            if value != plain and not has_any_class(model, data):
                raise ValueError(
                    f"objectives.{name}: {parameter} is {value}, but the model has no class beside the data's that means any; accepted: {plain:g}"
                )


NoisedRows = ExampleRows[NoisedImage]


def _noised_parts(denoiser: Denoiser, classes: Collection[int]) -> Callable[[Any, str], PartOf[NoisedImage]]:
    """Return what reads a data set's parts: images of the denoiser's channels and size, of these classes; of all where none are named."""
    num_channels, side, _ = denoiser.shape

    def parts_of(data: Any, name: str) -> PartOf[NoisedImage]:
        def part_of(part: Split) -> list[tuple[str, NoisedImage]] | None:
            some = read_images(data, part, num_channels, side)
            examples = zip(some.ids, map(NoisedImage, some.images, some.labels.tolist()), strict=True)
            return [(name, example) for name, example in examples if not classes or example.label in classes] or None

        return part_of

    return parts_of


def build_denoiser_run(plan: TrainingPlan, inputs: FinetuneInputs, workdir: Path) -> TrainingRun:
    """Return the training before its first step: student, teacher and images in place."""
    check_images(inputs.model.facts, [data.facts for data in inputs.data])  # what a plan could not know yet
    denoiser = load_denoiser(inputs.model.path, plan.device)
    rows = NoisedRows.read(inputs.data, _noised_parts(denoiser, plan.rows.classes))
    teacher = None if inputs.teacher is None else load_denoiser(inputs.teacher.path, plan.device)
    states = _states(plan, denoiser, teacher, inputs, is_heldout=False)
    if rows.heldout:
        rows.heldout[:] = _states(plan, denoiser, teacher, inputs, is_heldout=True).drawn(rows.heldout, -1)
    is_guided = plan.adaptation.kind == "guidance"
    student: Any = guided_student(plan, denoiser) if is_guided else _student(plan, denoiser, teacher)
    modality, sources = (
        NoisedImages(denoiser.process, denoiser.num_labels - 1),
        _teacher_sources(plan, student, teacher),
    )
    return assembled(plan, student, rows, modality, sources, workdir, rollouts=states)


def _student(plan: TrainingPlan, denoiser: Denoiser, teacher: Denoiser | None) -> DenoiserStudent:
    """Return the net that learns whole, with the nets beside it that its losses read."""
    read = projections_read(plan.reduction.objectives.values())
    # one net serves images as they are and noised: it is told the timestep
    tells = bool({DISCRIMINATOR, NOISED_DISCRIMINATOR} & {*read})
    critic = teacher.net if teacher is not None and CRITIC in read else None
    discriminator = FeatureDiscriminator(denoiser.net, denoiser.shape) if tells else None
    return DenoiserStudent(denoiser.net.requires_grad_(True), critic, discriminator)


def _states(
    plan: TrainingPlan, denoiser: Denoiser, teacher: Denoiser | None, inputs: FinetuneInputs, *, is_heldout: bool
) -> NoisedStates:
    starts = [objective.start for objective in plan.reduction.objectives.values()]  # type: ignore[attr-defined]
    start = next(start for start in starts if start is not None)
    if hasattr(start, "over"):  # states of a teacher's own paths, which it has to be rolled out for
        assert teacher is not None, "checked before"
        start = rolled_paths(start, teacher, inputs.data, plan.seed, is_heldout=is_heldout)
    return NoisedStates(denoiser.process, start, denoiser.num_labels - 1, plan.seed)


def _teacher_sources(plan: TrainingPlan, student: Any, teacher: Denoiser | None) -> dict[ViewName, TeacherSource]:
    """Return who speaks beside the student."""
    sources: dict[ViewName, TeacherSource] = {}
    for name, source in plan.teaching.sources.items():
        if source.rule is not None:
            sources[name] = StudentItself(source.rule).begin(student)
        elif teacher is not None and name == "teacher":
            sources[name] = OtherModel(DenoiserStudent(teacher.net.requires_grad_(False)).eval())
    return sources
