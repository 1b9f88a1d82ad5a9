"""The model card of a registered version. What was done, on what, with what result, and what it is not good for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attar.registry.artifacts.facts import Facts, fact_text, several
from attar.registry.artifacts.lineage import Ancestor
from attar.registry.artifacts.subjects import subject_of
from attar.registry.release.figures import HIGH, LOW
from attar.stages.register.release import Release
from attar.stages.register.release_numbers import MEASURES, plain
from attar.stages.register.subjects import RELEASES, Wording

# Stages that change the model or make the data it learns from, and what of their config a reader wants to know: its name and where it is.
STEPS = {
    "prune": {"metric": "metric", "choice": "choice", "patch": "patch.kind"},
    "narrow": {"score": "score", "patch": "patch.kind"},
    "trim_vocabulary": {"num_tokens": "num_tokens", "keep_scripts": "keep_scripts"},
    "prune_experts": {"method": "method", "params": "params"},
    "self_data": {"sampler": "sampler", "style": "prompt.style", "max_new_tokens": "drawing.max_new_tokens"},
    "curate": {},
    "record": {"num_recorded": "num_recorded"},
    "finetune": {
        "method": "adapt.kind",
        "rank": "adapt.rank",
        "objectives": "objectives",
        "num_epochs": "schedule.num_epochs",
        "learning_rate": "schedule.learning_rate",
    },
    "merge": {"method": "method", "params": "params"},
}

# Weights that are not rounded to integers.
FLOATS = ("float32", "bfloat16", "float16", "f32", "bf16", "f16")


def write_card(release: Release) -> str:
    """Return the card as Markdown with the front matter that model hubs read."""
    wording = _wording(release.model.facts)
    front = [
        "---",
        f"license: {release.license}",
        f"library_name: {wording.library}",
        f"pipeline_tag: {wording.hub_task}",
    ]
    parts = [
        [*front, "tags: [attar, pruned]", "---", f"# {release.name}", "", f"{_blocks(release)} Made with Attar."],
        ["## Forms", *_forms(release)],
        ["## What was removed and how it was healed", *_steps(release)],
        ["## Data", *_data(release)],
        ["## Figures", *_figures(release)],
        ["## Gate", *_gate(release)],
        ["## Quantization", *_quantization(release)],
        ["## Limits of use", *_limits(release)],
        ["## Licence", *_license(release)],
        ["## Lineage", "", "```", *_lineage(release.model), "```"],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _blocks(release: Release) -> str:
    base, now = next((base.facts for base in release.bases), {}), release.model.facts
    wording = _wording(now)
    sizes = _sizes(now, wording.blocks)
    if not base or base.get("num_parameters") == now.get("num_parameters"):
        return f"A {wording.noun} of {sizes}."
    return f"A {wording.noun} of {sizes}; the original has {_sizes(base, 'blocks')}."


def _sizes(facts: Facts, blocks: str) -> str:
    # a denoiser's levels are no blocks that could be counted
    depth = "" if "sample_size" in facts else f"{facts.get('num_blocks', '?')} {blocks}, "
    return f"{depth}{float(facts.get('num_parameters', 0)):,.0f} parameters"


def _forms(release: Release) -> list[str]:
    lines = []
    for folder, facts in release.forms.items():
        wording = _wording(facts)
        what = wording.forms.get(str(facts.get("format")), f"{wording.folder}: {release.readers}, torch")
        bits = f", {facts['bits_per_weight']:.2f} bits each" if "bits_per_weight" in facts else ""
        lines.append(f"- `{folder}/`: {what}; weights {_weights(facts)}{bits}")
    return [*lines, "- `SHA256SUMS`: of every file; `sha256sum --check SHA256SUMS`"]


def _wording(facts: Facts) -> Wording:
    return RELEASES[subject_of(facts)].wording


def _weights(facts: Facts) -> str:
    held = str(facts.get("quantization", "none"))
    held = held if held != "none" else str(facts.get("precision", facts.get("dtype", "float32")))
    return f"{held}, keys and values {facts['cache']}" if "cache" in facts else held


def _steps(release: Release) -> list[str]:
    lines = []
    for step in release.ancestors:
        if step.stage not in STEPS:
            continue
        settings = {name: _setting(step.config, path, name) for name, path in STEPS[step.stage].items()}
        parts = [f"{name} {value}" for name, value in settings.items() if value not in (None, "", {}, [])]
        if step.stage == "prune" and (subnet := step.facts.get("subnet")):
            parts = [f"the sub-network of {subnet} of the model before it"]
        elif step.stage == "prune":
            removed = fact_text(several(step.facts, "removed_blocks")) or "?"
            parts.insert(0, f"blocks {removed} of the model before it removed")
        if step.stage == "narrow":
            groups = f", {step.facts['num_kv_groups']} KV groups" if step.facts.get("num_kv_groups") else ""
            channels = f"{step.facts.get('num_ffn_channels', '?')} feed-forward channels{groups} left in each block"
            parts.insert(0, step.facts.get("widths") or channels)
        if step.stage == "trim_vocabulary":
            parts.insert(0, f"{step.facts.get('vocab_size', '?')} tokens left")
        if step.stage == "prune_experts":
            parts.insert(0, f"{step.facts.get('num_experts', '?')} experts left in each block")
        if step.kind == "dataset":
            parts.append(_rows(step.facts))
        lines.append(f"- {step.stage}: {', '.join(parts) or step.key[:12]}")
    return lines or ["- nothing: these are the weights of the original"]


def _setting(config: Mapping[str, Any], path: str, flat: str) -> Any:
    """Return a setting of a stored config by its path, in one of an earlier version by its flat name."""
    value: Any = config
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return config.get(flat) if value is None else value


def _rows(facts: Facts) -> str:
    rows = f"{facts.get('num_rows', '?')} rows, {facts.get('num_heldout', 0)} of them held out"
    return rows + (f", {facts['num_rewritten']} rewritten by the original" if "num_rewritten" in facts else "")


def _data(release: Release) -> list[str]:
    lines = []
    for use in release.data:
        facts = use.dataset.facts
        name, source = facts.get("name", use.dataset.key[:12]), facts.get("source", "?")
        lines.append(f"- {name} (`{source}`): {_rows(facts)}; {' and '.join(use.uses)}")
    return lines or ["- none"]


def _figures(release: Release) -> list[str]:
    names = list(release.figures)
    lines = [f"| measure | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    rest = {name for some in release.figures.values() for name in some} - set(MEASURES)
    known = [*MEASURES, *sorted(name for name in rest if not name.endswith((LOW, HIGH)))]
    for measure in known:
        if any(measure in some for some in release.figures.values()):
            lines.append(f"| {measure} | {' | '.join(_figure(some, measure) for some in release.figures.values())} |")
    legend = "In brackets 95% intervals (accuracy: Wilson's; perplexity: pieces of the text drawn anew) and, of times, quartiles."
    return ["", *lines, "", legend]


def _figure(figures: Mapping[str, float], measure: str) -> str:
    if measure not in figures:
        return ""
    ends = [plain(figures[measure + end]) for end in (LOW, HIGH) if measure + end in figures]
    return plain(figures[measure]) + (f" [{', '.join(ends)}]" if len(ends) == 2 else "")


def _gate(release: Release) -> list[str]:
    lines = [
        "",
        "| of | candidate / original | measured | on | limit | lets through | |",
        "|---|---|---|---|---|---|---|",
    ]
    for check in release.checks:
        limit = f"{'at most' if check['is_lower_better'] else 'at least'} {check['limit']:.4g}"
        verdict = f"{check['verdict']}: {check['undecided']}" if check["undecided"] else check["verdict"]
        measured = f"{check['measured']:.4g} {check['known']}".rstrip()
        cells = (check["of"], check["name"], measured, check["measured_on"], limit, check["laxness"], verdict)
        lines.append(f"| {' | '.join(cells)} |")
    return lines if release.checks else ["", "None was asked for."]


def _quantization(release: Release) -> list[str]:
    graphs = {folder: facts for folder, facts in release.forms.items() if _weights(facts) not in FLOATS}
    if not graphs:
        return ["", "None: every form holds full-precision weights."]
    return [
        f"- `{folder}/`: {_weights(facts)}; its loss stands in the figures above" for folder, facts in graphs.items()
    ]


def _limits(release: Release) -> list[str]:
    measures = ("accuracy_", "spearman_", "mrr_")
    figures = release.figures.get("model", {})
    tasks = ", ".join(
        name.partition("_")[2] for name in figures if name.startswith(measures) and not name.endswith((LOW, HIGH))
    )
    if "frechet_distance" in figures:
        tasks = "images of the data's classes"
    unread = "- diffusers reads the folder without its self-conditioning, with a warning: another net. Attar and the graph have it."
    return [
        *([unread] if release.model.facts.get("self_conditioning") else []),
        f"- What it can do was measured on {tasks or 'no task'} alone; elsewhere it can have lost more than these figures show.",
        f"- It was compressed for the data above. {_wording(release.model.facts).unmeasured} were not measured.",
        "- Whatever the original says wrongly or must not be used for holds for this model too.",
    ]


def _license(release: Release) -> list[str]:
    sources = ", ".join(f"`{base.config.get('source', '?')}`" for base in release.bases) or "not recorded"
    source_line = "its source does not say; ask whoever made it" if release.license == "unknown" else release.license
    return [f"Base: {sources}. Its licence: {source_line}. This version is a derived work of it."]


def _lineage(lineage: Ancestor, depth: int = 0) -> list[str]:
    line = f"{'  ' * depth}{lineage.via + ': ' if lineage.via else ''}{lineage.stage} {lineage.key[:12]}"
    return [line, *(below for parent in lineage.inputs for below in _lineage(parent, depth + 1))]
