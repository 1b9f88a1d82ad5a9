"""Objectives in a recipe: components by name with their parameters, refused when the recipe loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from attar.compressors.catalogue import build, did_you_mean
from attar.compressors.distill.examples.sample_facts import Route
from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.heads.catalogue import IMAGE_LOSSES
from attar.compressors.distill.losses.chunkwise import ChunkwiseDistil
from attar.compressors.distill.losses.classes import CLASS_LOSSES
from attar.compressors.distill.losses.composite import Distil, Mean
from attar.compressors.distill.losses.denoising.catalogue import DENOISING_LOSSES
from attar.compressors.distill.losses.divergences.catalogue import CHUNKWISE, DIVERGENCES, LISTWISE
from attar.compressors.distill.losses.divergences.hidden import HIDDEN_LOSSES
from attar.compressors.distill.losses.embeddings.catalogue import EMBEDDING_LOSSES
from attar.compressors.distill.losses.hidden_states import HiddenDistil
from attar.compressors.distill.losses.listwise import ListwiseDistil
from attar.compressors.distill.losses.objective import Objective
from attar.compressors.distill.losses.objectives import OBJECTIVES
from attar.compressors.distill.losses.targets.target_ops import TARGETS, Identity
from attar.compressors.distill.losses.weights.coefficients import COEFFICIENT_SCHEDULES, CoefficientSchedule
from attar.compressors.distill.losses.weights.sample_weights import SAMPLE_WEIGHTS
from attar.compressors.distill.losses.weights.token_weights import TOKEN_WEIGHTS
from attar.stages.runtime.accepted import accepted
from attar.stages.runtime.described import DescribedModel
from attar.stages.runtime.method_field import build_named

T = TypeVar("T")
# Losses that are objectives by themselves, with why no other component has anything to act on, and where their target comes from.
WHOLE: tuple[tuple[Mapping[str, type[Objective]], str, str], ...] = (
    (EMBEDDING_LOSSES, "a loss between vectors has no distribution", "a loss between vectors is toward the teacher's"),
    (
        CLASS_LOSSES,
        "the labels' loss is toward the data's own labels",
        "the labels' loss is toward the data's own labels",
    ),
    (DENOISING_LOSSES, "a denoiser's loss has no distribution", "a denoiser's loss brings its own target"),
    (IMAGE_LOSSES, "a loss with heads of its own is whole", "a loss with heads of its own brings its target"),
)
# Objectives by their own name: of distributions, between vectors, toward labels, of denoisers, of images with heads beside the net.
NAMED = OBJECTIVES | EMBEDDING_LOSSES | CLASS_LOSSES | DENOISING_LOSSES | IMAGE_LOSSES
KNOWN = (
    DIVERGENCES
    | LISTWISE
    | CHUNKWISE
    | HIDDEN_LOSSES
    | EMBEDDING_LOSSES
    | CLASS_LOSSES
    | DENOISING_LOSSES
    | IMAGE_LOSSES
)
# A name, or a name with its parameters: `gate`, or `{clip: {limit_nats: 2.0}}`.
Component = str | dict[str, dict[str, Any]]
# Names of whole methods, and what they are made of here.
_FILLS_MASKS = (
    "is no loss but a way to train a student that fills masks; accepted: rows.masks with next_token, student_entropy and others, as the recipes "
    "methods/dparallel and methods/bang have them"
)
NOT_CAUSAL = dict.fromkeys(("mask_predict", "masked_entropy", "dparallel", "bang"), _FILLS_MASKS)


class ObjectiveSpec(DescribedModel):
    """One objective made of components; see compressors/distill/losses/composite.py."""

    divergence: Component
    """How far the student is from its target, per token."""

    weight: float = Field(default=1.0, ge=0)
    """What the objective counts in the sum of all."""

    target: Component = "identity"
    """What the student is to become: made of teacher, past, anchor and labels. Default: what the teacher says."""

    temperature: float = Field(default=1.0, gt=0)
    """Softens student and sources alike; the loss is multiplied by its square, so that the gradient keeps its size. 1: neither."""

    token_weight: Component | list[Component] = []
    """How much each token counts; several multiply."""

    sample_weight: Component | None = None
    """How much each sequence counts."""

    route: Route = "all"
    """Which sequences it is for; those that go another way count in the same denominator."""

    reduction: Mean = "token"
    """What the loss is a mean of. token: of all tokens of the step, so that a long answer weighs more; sequence: of each answer first
    (1/|y| in papers), then of the answers."""

    schedule: Component | list[Component] = []
    """How it changes while training goes on."""

    def objective(self) -> Objective:
        """Return the objective. Raises ValueError for an unknown component, a wrong parameter, or components that do not fit."""
        name, params = split_component(self.divergence)
        if name in NOT_CAUSAL:
            raise ValueError(f"divergence {name!r} {NOT_CAUSAL[name]}")
        if name in LISTWISE:
            self._refuse_unused("a listwise loss is over whole sequences")
            return self._listwise(build(LISTWISE, name, params))
        if name in CHUNKWISE:
            self._refuse_unused("a chunkwise loss is over stretches of text")
            if self.target != "identity":
                raise ValueError("a chunkwise loss is toward what `align` recorded; target has nothing to act on")
            return ChunkwiseDistil(divergence=built(CHUNKWISE, self.divergence, "divergence"))
        if name in HIDDEN_LOSSES:
            self._refuse_unused("a loss between hidden states has no distribution")
            if self.target != "identity":
                raise ValueError("a loss between hidden states is toward the teacher's; target has nothing to act on")
            return HiddenDistil(divergence=built(HIDDEN_LOSSES, self.divergence, "divergence"))
        for table, reason, toward in WHOLE:
            if name in table:
                self._refuse_unused(reason)
                if self.target != "identity":
                    raise ValueError(f"{toward}; target has nothing to act on")
                return built(table, self.divergence, "divergence")
        return Distil(
            divergence=built(KNOWN, self.divergence, "divergence"),  # type: ignore[type-var]
            target=built(TARGETS, self.target, "target"),
            temperature=self.temperature,
            token_weights=tuple(built(TOKEN_WEIGHTS, axis, "token_weight") for axis in listed(self.token_weight)),
            sample_weight=built(SAMPLE_WEIGHTS, self.sample_weight, "sample_weight") if self.sample_weight else None,
            route=self.route,
            reduction=self.reduction,
        )

    def schedules(self) -> tuple[CoefficientSchedule, ...]:
        """Return what changes it. Raises ValueError for a schedule of something that is not there."""
        schedules = tuple(_schedule(component) for component in listed(self.schedule))
        objective = self.objective()
        for change in schedules:
            for step in (0, 9):  # the first and the last of a training
                _, weight = change.at(
                    objective, self.weight, Clock(step, 10, step, 10)
                )  # refuses what it cannot become
                if weight < 0:
                    raise ValueError(f"schedule: the weight becomes {weight}; accepted: 0 or more")
        return schedules

    def _listwise(self, divergence: Any) -> ListwiseDistil:
        target = Identity(of="anchor") if self.target == "identity" else built(TARGETS, self.target, "target")
        return ListwiseDistil(divergence=divergence, target=target)

    def _refuse_unused(self, reason: str) -> None:
        unused = [name for name in ("token_weight", "sample_weight") if getattr(self, name)]
        unused += [
            name
            for name, plain in (("route", "all"), ("reduction", "token"), ("temperature", 1.0))
            if getattr(self, name) != plain
        ]
        if unused:
            raise ValueError(f"{reason}; {unused[0]} has nothing to act on")


def built(table: Mapping[str, type[T]], component: Component, what: str) -> T:
    """Return the component that a recipe names. Raises ValueError that says which part of the objective is wrong."""
    return build_named(table, *split_component(component), what)


def split_component(component: Component) -> tuple[str, dict[str, Any]]:
    """Return (name, parameters)."""
    if isinstance(component, str):
        return component, {}
    if len(component) != 1:
        raise ValueError(f"{component!r}: accepted: a name, or one name with its parameters")
    ((name, params),) = component.items()
    return name, params


def listed(components: Component | list[Component]) -> list[Component]:
    """Return one component or several as a list."""
    return components if isinstance(components, list) else [components]


def read_objective(name: str, entry: Any) -> Any:
    """Return an entry of a recipe with its mapping read, refused in one line. A union's errors would name every form it could have."""
    if not isinstance(entry, dict):
        return entry
    try:
        return ObjectiveSpec.model_validate(entry)
    except ValidationError as error:
        # a misspelt field says more than the one that is missing by it
        first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        field = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = did_you_mean(field, ObjectiveSpec.model_fields)
            raise ValueError(f"objective {name!r} has no field {field!r}.{known}") from error
        if first["type"] == "missing":
            raise ValueError(f"objective {name!r}: {field} is missing. Known: {', '.join(sorted(KNOWN))}") from error
        if instead := accepted(first):
            raise ValueError(f"objective {name!r}, {field} is {first['input']!r}; accepted: {instead}") from error
        raise ValueError(f"objective {name!r}, {field} = {first['input']!r}: {first['msg']}") from error


def objective_of(name: str, entry: float | ObjectiveSpec) -> Objective:
    """Return the objective of one entry of a config: a plain one by its name, or one made of components."""
    if isinstance(entry, ObjectiveSpec):
        return entry.objective()
    if name in NOT_CAUSAL:
        raise ValueError(f"objective {name!r} {NOT_CAUSAL[name]}")
    if name not in NAMED:
        raise ValueError(f"unknown objective {name!r}.{did_you_mean(name, NAMED)}")
    return build(NAMED, name)


@dataclass(frozen=True)
class WeighedObjective:
    """An entry of a config as training takes it: the objective, its weight, and what changes both."""

    objective: Objective
    weight: float
    schedules: tuple[CoefficientSchedule, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether it ever weighs more than nothing."""
        return bool(self.weight or self.schedules)


def weighed_objective(name: str, entry: float | ObjectiveSpec) -> WeighedObjective:
    """Return an entry read. Raises ValueError for one that cannot be, or a weight below 0."""
    objective, spec = objective_of(name, entry), spec_of(entry)
    schedules = () if spec is None else spec.schedules()
    weight: float = entry if spec is None else spec.weight  # type: ignore[assignment]
    if weight < 0:
        raise ValueError(f"weight of {name} is {weight}; accepted: 0 or more")
    return WeighedObjective(objective, weight, schedules)


def spec_of(entry: float | ObjectiveSpec) -> ObjectiveSpec | None:
    """Return the entry where it is spelled out; None for a plain objective with its weight."""
    return entry if isinstance(entry, ObjectiveSpec) else None


def _schedule(component: Component) -> CoefficientSchedule:
    name, params = split_component(component)
    if name == "switch_divergence" and "to" in params:
        params = {**params, "to": built(DIVERGENCES, params["to"], "divergence")}
    return built(COEFFICIENT_SCHEDULES, {name: params}, "schedule")
