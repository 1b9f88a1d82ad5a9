"""Whether what a training distils from fits together: objectives, sources, the teacher's context, who writes."""

from __future__ import annotations

from collections.abc import Mapping

from attar.compressors.distill.examples.rollouts import RolloutPolicy
from attar.compressors.distill.losses.composite import Distil, HiddenDistil
from attar.compressors.distill.losses.objectives import ForwardKL, NextToken, Objective
from attar.compressors.distill.losses.weights.sample_weights import BetaKernel, DivergenceAware
from attar.compressors.distill.teachers.contexts import CONTEXTS, ContextBuilder
from attar.registry.artifacts.handles import Facts
from attar.stages.finetune.objective_spec import traits_of, views_read


def check_source(name: str, kind: str, adapt_kind: str, *, trains_base: bool) -> None:
    """Raise ValueError for a source that this adapter cannot give."""
    if kind == "base" and trains_base:
        raise ValueError(
            f"{name} is 'base', the student with its adapters off, but adapt.kind {adapt_kind!r} trains the base itself; use 'start'"
        )


def uses_teacher(objectives: Mapping[str, Objective], policy: RolloutPolicy | None) -> bool:
    """Say whether an objective reads the teacher, or a rollout lets it write."""
    writes = policy is not None and "teacher" in policy.writers
    return writes or any("teacher" in views_read(objective) for objective in objectives.values())


def check_views(objectives: Mapping[str, Objective], sources: Mapping[str, str]) -> None:
    """Raise ValueError when an objective reads a source that is none; `sources` says of what kind each is."""
    for name, objective in objectives.items():
        for source, kind in sources.items():
            if source in views_read(objective) and kind == "none":
                raise ValueError(f"objective {name!r} reads {source}, but {source} is 'none'; say who stands behind it")


def check_sample(objectives: Mapping[str, Objective], *, has_rollout: bool) -> None:
    """Raise ValueError when an objective reads more than sums over the vocabulary, which a part of it would change."""
    if has_rollout:
        raise ValueError("vocabulary_sample is for given answers; accepted with a rollout: 0")
    for name, one in objectives.items():
        is_sum = isinstance(one, Distil) and not (one.needs_whole or one.statistics)
        # all of the labels' mass is on one entry, which is always there and stands for itself
        if isinstance(one, Distil) and one.divergence.traits.reads_density and one.views != {"labels"}:
            raise ValueError(
                f"objectives.{name} reads the probability of single entries, which vocabulary_sample does not estimate: it would be "
                "another loss; accepted: 0, or forward_kl, whose gradient a cross-entropy has"
            )
        if not (is_sum or isinstance(one, NextToken | ForwardKL | HiddenDistil)):
            raise ValueError(
                f"objectives.{name} reads more than sums over the vocabulary, which vocabulary_sample cannot estimate; accepted: 0"
            )


def check_rollout(
    objectives: Mapping[str, Objective],
    policy: RolloutPolicy | None,
    context: ContextBuilder,
    *,
    has_sides: bool = False,
) -> None:
    """Raise ValueError when an objective or the context needs what these sequences do not have."""
    for name, objective in objectives.items():
        traits = traits_of(objective)
        if traits.needs_reward and policy is None:
            raise ValueError(
                f"objective {name!r} is a policy loss: it needs a rollout and a verifier's reward; rollout is 'data'"
            )
        writers = () if policy is None else policy.writers
        is_drawn = writers in (("student",), ("teacher",))
        if (traits.needs_old or traits.needs_student_draws) and not is_drawn:
            raise ValueError(
                f"objective {name!r} is an expectation over tokens that a policy drew; accepted: rollout student, or teacher"
            )
        if traits.needs_old and policy is not None and (policy.temperature != 1.0 or policy.top_p != 1.0):
            raise ValueError(
                f"objective {name!r} divides by the probability that its tokens were drawn with: "
                f"temperature and top_p are {policy.temperature} and {policy.top_p}; accepted: 1 and 1"
            )
        check_groups(name, objective, policy)
        if (
            isinstance(objective, Distil)
            and isinstance(objective.sample_weight, DivergenceAware)
            and policy is not None
        ):
            raise ValueError(
                f"objective {name!r} weighs by divergence_aware, which scores given answers; rollout is not 'data'"
            )
        route = objective.route if isinstance(objective, Distil) else "all"
        is_sided = has_sides and route in ("plain", "hinted")
        if route != "all" and policy is None and not is_sided:
            raise ValueError(f"objective {name!r} has route {route!r}, but rollout is 'data': nothing is judged")
    if context.needs & {"verdict", "sibling"} and policy is None:
        raise ValueError("teacher_context tells of written answers, but rollout is 'data'; accepted: a rollout")
    if policy is not None and policy.writers == ("teacher",) and not context.is_known_before:
        raise ValueError("a teacher that writes must know its hint before; this teacher_context is made of the answer")


def check_groups(name: str, objective: Objective, policy: RolloutPolicy | None) -> None:
    """Raise ValueError when an objective compares the answers to a prompt, and there is one of each, or all are the same.

    An advantage among one is zero, and the pass rate of one answer 0 or 1: such a training has no gradient and says nothing.
    """
    traits = traits_of(objective)
    weight = objective.sample_weight if isinstance(objective, Distil) else None
    is_kernel = isinstance(weight, BetaKernel) and policy is not None and max(weight.alpha, weight.beta) > 0
    if not (traits.needs_groups or traits.needs_reward or is_kernel):
        return
    if policy is None or policy.num_samples < 2:
        told = "accepted: a rollout with" if policy is None else f"num_samples is {policy.num_samples}; accepted:"
        raise ValueError(f"objective {name!r} compares the answers to a prompt; {told} num_samples of 2 or more")
    if policy.temperature == 0.0:
        raise ValueError(
            f"objective {name!r} compares the answers to a prompt, which are all the same at temperature 0; accepted: above 0"
        )


def check_record(objectives: Mapping[str, Objective], data: tuple[Facts, ...], context: ContextBuilder) -> None:
    """Raise ValueError when recorded candidates do not do: none are there, too few, or a context would have changed them."""
    if all(one.get("num_recorded") == 0 for one in data):
        names = [name for name, objective in objectives.items() if objective.uses_teacher]
        raise ValueError(
            f"objectives.{names[0]}: no data set has a recorded teacher; set num_recorded in self_data, or give the input `teacher`"
        )
    if type(context) is not CONTEXTS["none"]:
        raise ValueError("teacher_context is for a live teacher; what was recorded was said without it")
    for name, objective in objectives.items():
        for one in data:
            recorded, vocab = one.get("num_recorded"), one.get("vocab_size")
            is_short = recorded is not None and vocab is not None and 0 < int(recorded) < int(vocab)
            if is_short and getattr(objective, "needs_whole", False) and objective.uses_teacher:
                raise ValueError(
                    f"objectives.{name} needs the teacher's whole distribution, but {recorded} of {vocab} tokens are recorded; "
                    "give the input `teacher`, or let the student teach itself"
                )
