"""The model card of a registered version: what was done, on what, with what result, and what it is not good for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attar.registry.artifacts.handles import Facts
from attar.registry.artifacts.lineage import Ancestor, in_order
from attar.registry.release.figures import HIGH, LOW
from attar.stages.register.release_numbers import MEASURES, plain

# Stages that change the model or make the data it learns from, and the fields of their config that a reader wants to know.
STEPS = {
    "prune": ("metric", "choice", "patch"),
    "narrow": ("score", "patch"),
    "self_data": ("sampler", "style", "max_new_tokens"),
    "curate": (),
    "record": ("num_recorded",),
    "finetune": ("method", "rank", "objectives", "num_epochs", "learning_rate"),
    "merge": ("method", "params"),
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card is written from: the model's lineage, that of its evaluation, and each form's facts, figures and checks."""

    name: str
    model: Ancestor
    evaluation: Ancestor
    # folder in the version -> facts of what lies there
    forms: Mapping[str, Facts]
    # the same names and `original` -> measure -> value
    figures: Mapping[str, Mapping[str, float]]
    checks: Sequence[Mapping[str, Any]]
    # what reads the Hugging Face folder: versions of transformers
    readers: str = "transformers"

    @property
    def license(self) -> str:
        """Licence of the base model; `unknown` where its source does not say."""
        return str(next((one.facts["license"] for one in _bases(self.model) if "license" in one.facts), "unknown"))


def write_card(card: Card) -> str:
    """Return the card as Markdown with the front matter that model hubs read."""
    front = ["---", f"license: {card.license}", "library_name: transformers", "pipeline_tag: text-generation"]
    parts = [
        [*front, "tags: [attar, pruned]", "---", f"# {card.name}", "", f"{_blocks(card)} Made with Attar."],
        ["## Forms", *_forms(card)],
        ["## What was removed and how it was healed", *_steps(card.model)],
        ["## Data", *_data(card)],
        ["## Figures", *_figures(card)],
        ["## Gate", *_gate(card)],
        ["## Quantization", *_quantization(card)],
        ["## Limits of use", *_limits(card)],
        ["## Licence", *_license(card)],
        ["## Lineage", "", "```", *_lineage(card.model), "```"],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _bases(lineage: Ancestor) -> list[Ancestor]:
    return [one for one in in_order(lineage) if one.stage == "ingest_model"]


def _blocks(card: Card) -> str:
    base, now = next((one.facts for one in _bases(card.model)), {}), card.model.facts
    sizes = f"{now.get('num_blocks', '?')} decoder blocks, {float(now.get('num_parameters', 0)):,.0f} parameters"
    if not base or base.get("num_parameters") == now.get("num_parameters"):
        return f"A causal language model of {sizes}."
    was = f"{base.get('num_blocks', '?')} blocks, {float(base.get('num_parameters', 0)):,.0f} parameters"
    return f"A causal language model of {sizes}; the original has {was}."


def _forms(card: Card) -> list[str]:
    lines = []
    for folder, facts in card.forms.items():
        is_graph = facts.get("format") == "onnx"
        what = (
            "ONNX graph with a KV cache: onnxruntime, tokenizers"
            if is_graph
            else f"Hugging Face folder: {card.readers}, torch"
        )
        lines.append(f"- `{folder}/`: {what}; weights {_weights(facts)}")
    return [*lines, "- `SHA256SUMS`: of every file; `sha256sum --check SHA256SUMS`"]


def _weights(facts: Facts) -> str:
    held = str(facts.get("quantization", "none"))
    return held if held != "none" else str(facts.get("dtype", "float32"))


def _steps(lineage: Ancestor) -> list[str]:
    lines = []
    for one in in_order(lineage):
        if one.stage not in STEPS:
            continue
        said = [
            f"{name} {one.config[name]}" for name in STEPS[one.stage] if one.config.get(name) not in (None, "", {}, [])
        ]
        if one.stage == "prune":
            said.insert(0, f"blocks {one.facts.get('removed_blocks', '?')} of the model before it removed")
        if one.stage == "narrow":
            groups = f", {one.facts['num_kv_groups']} KV groups" if one.facts.get("num_kv_groups") else ""
            said.insert(0, f"{one.facts.get('num_ffn_channels', '?')} feed-forward channels{groups} left in each block")
        if one.kind == "dataset":
            said.append(_rows(one.facts))
        lines.append(f"- {one.stage}: {', '.join(said) or one.key[:12]}")
    return lines or ["- nothing: these are the weights of the original"]


def _rows(facts: Facts) -> str:
    rows = f"{facts.get('num_rows', '?')} rows, {facts.get('num_heldout', 0)} of them held out"
    return rows + (f", {facts['num_rewritten']} rewritten by the original" if "num_rewritten" in facts else "")


def _data(card: Card) -> list[str]:
    learned = _data_sources(card.model, without=("tasks",))
    apart = {key: one for key, one in _data_sources(card.model).items() if key not in learned}
    measured = _data_sources(card.evaluation, without=("model", "original"))
    lines = []
    for key, one in (learned | apart | measured).items():
        roles = (("made with", learned), ("kept apart from what it was made with", apart), ("measured on", measured))
        uses = [use for use, some in roles if key in some]
        lines.append(
            f"- {one.facts.get('name', key[:12])} (`{one.facts.get('source', '?')}`): {_rows(one.facts)}; {' and '.join(uses)}"
        )
    return lines or ["- none"]


def _data_sources(lineage: Ancestor, without: Sequence[str] = ()) -> dict[str, Ancestor]:
    """Return the data sets behind an artifact by key. `without`: inputs not to follow, as curate's tasks."""
    if lineage.stage == "ingest_data":
        return {lineage.key: lineage}
    found: dict[str, Ancestor] = {}
    for one in lineage.inputs:
        if one.via not in without:
            found |= _data_sources(one, without)
    return found


def _figures(card: Card) -> list[str]:
    names = list(card.figures)
    lines = [f"| measure | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    rest = {name for some in card.figures.values() for name in some} - set(MEASURES)
    known = [*MEASURES, *sorted(name for name in rest if not name.endswith((LOW, HIGH)))]
    for measure in known:
        if any(measure in some for some in card.figures.values()):
            lines.append(f"| {measure} | {' | '.join(_figure(some, measure) for some in card.figures.values())} |")
    told = "In brackets 95% intervals (accuracy: Wilson's; perplexity: pieces of the text drawn anew) and, of times, quartiles."
    return ["", *lines, "", told]


def _figure(figures: Mapping[str, float], measure: str) -> str:
    if measure not in figures:
        return ""
    ends = [plain(figures[measure + end]) for end in (LOW, HIGH) if measure + end in figures]
    return plain(figures[measure]) + (f" [{', '.join(ends)}]" if len(ends) == 2 else "")


def _gate(card: Card) -> list[str]:
    lines = [
        "",
        "| of | candidate / original | measured | on | limit | lets through | |",
        "|---|---|---|---|---|---|---|",
    ]
    for check in card.checks:
        limit = f"{'at most' if check['is_lower_better'] else 'at least'} {check['limit']:.4g}"
        verdict = f"{check['verdict']}: {check['undecided']}" if check["undecided"] else check["verdict"]
        measured = f"{check['measured']:.4g} {check['known']}".rstrip()
        told = (check["of"], check["name"], measured, check["measured_on"], limit, check["laxness"], verdict)
        lines.append(f"| {' | '.join(told)} |")
    return lines if card.checks else ["", "None was asked for."]


def _quantization(card: Card) -> list[str]:
    graphs = {
        folder: facts
        for folder, facts in card.forms.items()
        if _weights(facts) not in ("float32", "bfloat16", "float16")
    }
    if not graphs:
        return ["", "None: every form holds full-precision weights."]
    return [
        f"- `{folder}/`: {_weights(facts)}; its loss stands in the figures above" for folder, facts in graphs.items()
    ]


def _limits(card: Card) -> list[str]:
    tasks = ", ".join(
        name.removeprefix("accuracy_")
        for name in card.figures.get("model", {})
        if name.startswith("accuracy_") and not name.endswith((LOW, HIGH))
    )
    return [
        f"- What it can do was measured on {tasks or 'no task'} alone; elsewhere it can have lost more than these figures show.",
        "- It was compressed for the data above. Other languages, long contexts and safety behaviour were not measured.",
        "- Whatever the original says wrongly or must not be used for holds for this model too.",
    ]


def _license(card: Card) -> list[str]:
    sources = ", ".join(f"`{one.config.get('source', '?')}`" for one in _bases(card.model)) or "not recorded"
    said = "its source does not say; ask whoever made it" if card.license == "unknown" else card.license
    return [f"Base: {sources}. Its licence: {said}. This version is a derived work of it."]


def _lineage(lineage: Ancestor, depth: int = 0) -> list[str]:
    line = f"{'  ' * depth}{lineage.via + ': ' if lineage.via else ''}{lineage.stage} {lineage.key[:12]}"
    return [line, *(below for one in lineage.inputs for below in _lineage(one, depth + 1))]
