"""Whether what a training distils from fits together: objectives, sources, the teacher's context, who writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from attar.compressors.distill.examples.rollouts import RolloutPolicy
from attar.compressors.distill.losses.objective import Objective
from attar.compressors.distill.teachers.contexts import ContextBuilder
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.subjects import DENOISER, subject_of
from attar.stages.artifacts.encoder.elastic import check_space
from attar.stages.artifacts.encoder.exits import check_exits
from attar.stages.artifacts.model.expert_facts import float_fraction, is_dense, refuse_float_experts
from attar.stages.finetune.adapt_config import AdaptKind


def check_source(name: str, kind: str, adapt_kind: str, *, trains_base: bool) -> None:
    """Raise ValueError for a source that this adapter cannot give."""
    if kind == "base" and trains_base:
        raise ValueError(
            f"{name} is 'base', the student with its adapters off, but adapt.kind {adapt_kind!r} trains the base itself; use 'start'"
        )


def uses_teacher(objectives: Mapping[str, Objective], policy: RolloutPolicy | None) -> bool:
    """Say whether an objective reads the teacher, or a rollout lets it write."""
    writes = policy is not None and "teacher" in policy.writers
    return writes or any("teacher" in objective.requires.sources for objective in objectives.values())


def check_views(objectives: Mapping[str, Objective], sources: Mapping[str, str]) -> None:
    """Raise ValueError when an objective reads a source that is none; `sources` says of what kind each is."""
    for name, objective in objectives.items():
        for source, kind in sources.items():
            if source in objective.requires.sources and kind == "none":
                raise ValueError(f"objective {name!r} reads {source}, but {source} is 'none'; say who stands behind it")


def check_sample(objectives: Mapping[str, Objective], *, has_rollout: bool) -> None:
    """Raise ValueError when an objective reads more than sums over the vocabulary, which a part of it would change."""
    if has_rollout:
        raise ValueError("vocabulary_sample is for given answers; accepted with a rollout: 0")
    for name, objective in objectives.items():
        if objective.requires.vocabulary == "densities":
            raise ValueError(
                f"objectives.{name} reads the probability of single entries, which vocabulary_sample does not estimate: it would be "
                "another loss; accepted: 0, or forward_kl, whose gradient a cross-entropy has"
            )
        if objective.requires.vocabulary == "whole":
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
        facts, route = objective.requires.facts, objective.requires.route
        if "rewards" in facts and policy is None:
            raise ValueError(
                f"objective {name!r} is a policy loss: it needs a rollout and a verifier's reward; rollout is 'data'"
            )
        writers = () if policy is None else policy.writers
        is_drawn = writers in (("student",), ("teacher",))
        if facts & {"old_logprobs", "student_draws"} and not is_drawn:
            raise ValueError(
                f"objective {name!r} is an expectation over tokens that a policy drew; accepted: rollout student, or teacher"
            )
        if "old_logprobs" in facts and policy is not None and (policy.temperature != 1.0 or policy.top_p != 1.0):
            raise ValueError(
                f"objective {name!r} divides by the probability that its tokens were drawn with: "
                f"temperature and top_p are {policy.temperature} and {policy.top_p}; accepted: 1 and 1"
            )
        check_groups(name, objective, policy)
        if "scores" in facts and policy is not None:
            raise ValueError(
                f"objective {name!r} weighs by divergence_aware, which scores given answers; rollout is not 'data'"
            )
        is_sided = has_sides and route in ("plain", "hinted")
        if route != "all" and policy is None and not is_sided:
            raise ValueError(f"objective {name!r} has route {route!r}, but rollout is 'data': nothing is judged")
    if context.needs & {"verdict", "sibling"} and policy is None:
        raise ValueError("teacher_context tells of written answers, but rollout is 'data'; accepted: a rollout")
    if policy is not None and policy.writers == ("teacher",) and not context.is_known_before:
        raise ValueError("a teacher that writes must know its hint before; this teacher_context is made of the answer")


def check_groups(name: str, objective: Objective, policy: RolloutPolicy | None) -> None:
    """Raise ValueError when an objective compares answers to a prompt that has one, or equal ones.

    An advantage among one is zero, and the pass rate of one answer 0 or 1: such a training has no gradient and says nothing.
    """
    facts = objective.requires.facts
    if not (facts & {"groups", "rewards"} or ("pass_rates" in facts and policy is not None)):
        return
    if policy is None or policy.num_samples < 2:
        accepted = "accepted: a rollout with" if policy is None else f"num_samples is {policy.num_samples}; accepted:"
        raise ValueError(f"objective {name!r} compares the answers to a prompt; {accepted} num_samples of 2 or more")
    if policy.temperature == 0.0:
        raise ValueError(
            f"objective {name!r} compares the answers to a prompt, which are all the same at temperature 0; accepted: above 0"
        )


def check_record(objectives: Mapping[str, Objective], data: tuple[Facts, ...], context: ContextBuilder) -> None:
    """Raise ValueError when recorded candidates do not do: none are there, too few, or a context would have changed them."""
    if all(dataset.get("num_recorded") == 0 for dataset in data):
        names = [name for name, objective in objectives.items() if "teacher" in objective.requires.sources]
        raise ValueError(
            f"objectives.{names[0]}: no data set has a recorded teacher; set num_recorded in self_data, or give the input `teacher`"
        )
    if context.needs:
        raise ValueError("teacher_context is for a live teacher; what was recorded was said without it")
    for name, objective in objectives.items():
        for dataset in data:
            recorded, vocab = dataset.get("num_recorded"), dataset.get("vocab_size")
            is_short = recorded is not None and vocab is not None and 0 < int(recorded) < int(vocab)
            if is_short and objective.requires.is_whole and "teacher" in objective.requires.sources:
                raise ValueError(
                    f"objectives.{name} needs the teacher's whole distribution, but {recorded} of {vocab} tokens are recorded; "
                    "give the input `teacher`, or let the student teach itself"
                )


def check_before_prompt(
    kind: str,
    context: ContextBuilder,
    *,
    has_rollout: bool,
    has_sides: bool,
    learn: str,
    stop_on: str,
    others: Mapping[str, str],
) -> None:
    """Raise ValueError for what vectors before the prompt cannot be learned from. `others`: kinds of past and anchor.

    Those read what the student reads, and know no vector.
    """
    if context.needs != {"demonstrations"}:
        raise ValueError(
            f"adapt.kind is {kind!r}, whose vectors stand for demonstrations, but teacher.context tells the teacher none; accepted: "
            "{kind: demonstrations}"
        )
    refused = {
        "rollout.kind": ("another than 'data'", has_rollout),
        "rollout.both_sides": ("true", has_sides),
        "rows.learn": ("'all'", learn == "all"),
        "heldout.stop_on": ("'quality'", stop_on == "quality"),
        **{name: (repr(given), given != "none") for name, given in others.items()},
    }
    for field, (given, is_asked) in refused.items():
        if is_asked:
            raise ValueError(
                f"{field} is {given}, but adapt.kind is {kind!r}; accepted: given answers, learned alone, judged by their loss, of the "
                "teacher alone"
            )


def check_start(kind: str, model: Facts, start: Facts) -> None:
    """Raise ValueError for a compressor to begin with that is not of this training, as far as facts tell."""
    if kind != "compressor":
        raise ValueError(f"the node has an input `start`, but adapt.kind is {kind!r}; accepted: compressor")
    for name in ("hidden_size", "vocab_size"):
        if name in start and name in model and start[name] != model[name]:
            raise ValueError(
                f"start: a compressor for a model with {name} {start[name]}, and this one has {model[name]}; accepted: one for it"
            )


def check_shards(
    num_shards: int,
    adapt: AdaptKind,
    *,
    rules: Collection[str],
    has_rollout: bool,
    stop_on: str,
) -> None:
    """Raise ValueError for what needs a student whose weights are whole. `rules`: the views behind which the student itself stands."""
    refused = {
        f"adapt.kind {adapt.kind!r}": adapt.kind not in ("lora", "rslora", "dora", "full"),
        f"adapt.blocks {adapt.blocks!r}": adapt.blocks != "all",
        f"adapt.quantized_base {adapt.quantized_base!r}": adapt.quantized_base != "none",
        f"adapt.expert_rank {adapt.expert_rank}": bool(adapt.expert_rank),
        "a rollout": has_rollout,
        f"heldout.stop_on {stop_on!r}": stop_on != "loss",
        f"the student itself as {' and '.join(sorted(rules))}": bool(rules),
    }
    for what, is_asked in refused.items():
        if is_asked:
            raise ValueError(
                f"compute.num_shards is {num_shards}, but there is {what}; accepted with shards: adapt.kind lora, rslora, dora or full over "
                "all blocks, given answers, a teacher that is another model or recorded, stop_on 'loss'"
            )


def check_adapt(adapt: AdaptKind, model: Facts) -> None:
    """Raise ValueError for what the model's facts, where they are known, say cannot be adapted so."""
    if adapt.kind == "guidance" and model and subject_of(model) is not DENOISER:
        raise ValueError(
            f"adapt.kind is 'guidance', which is for denoisers, and the model is {subject_of(model).words}; accepted: lora, full and others, "
            "or the stage guide"
        )
    if adapt.blocks == "after_cut" and model and not model.get("removed_blocks", "unknown"):
        raise ValueError("adapt.blocks is 'after_cut', but no block of the model was removed")
    if adapt.quantized_base != "none":
        refuse_float_experts(float_fraction(model), "adapt.quantized_base", adapt.quantized_base)
    has = int(model.get("num_blocks", 0))
    if adapt.kind == "compressor" and 0 < has <= adapt.num_blocks:
        raise ValueError(
            f"adapt.num_blocks is {adapt.num_blocks}, but the model has {has} blocks; accepted: 1 to {has - 1}"
        )
    if adapt.expert_rank and is_dense(model):
        raise ValueError(f"adapt.expert_rank is {adapt.expert_rank}, but the model has no experts; accepted: 0")
    check_exits(adapt.exits, model, "adapt.exits")
    if adapt.kind == "elastic":
        check_space(adapt.space.space, model, "adapt.space")
