"""The figures of a release by stable names. Version tags that a table can sort by, and the columns of its card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from attar.registry.artifacts.facts import several
from attar.registry.artifacts.handles import EvaluationArtifact
from attar.registry.artifacts.lineage import Ancestor
from attar.registry.artifacts.store import Store
from attar.registry.release.figures import HIGH, LOW, is_figure
from attar.registry.release.gate import Ratio
from attar.stages.scan.tables import TABLE, read_scores, scored_metrics

# What is measured of every form, in the order of the card.
MEASURES = (
    "accuracy",
    "num_questions",
    "perplexity",
    "num_text_tokens",
    "bits_per_byte",
    "num_parameters",
    "flops_per_token",
    "disk_bytes",
    "memory_bytes",
    "prefill_seconds",
    "decode_seconds_per_token",
    "draft_gain",
    "draft_acceptance",
    "draft_tokens_per_step",
    "draft_length",
    "macro_f1",
    "span_f1",
    "span_precision",
    "span_recall",
    "macro_span_f1",
    "token_accuracy",
    "calibration_error",
    "label_nats",
    "spearman",
    "num_pairs",
    "mrr",
    "ndcg_10",
    "recall_1",
    "recall_10",
    "num_queries",
    "embed_seconds",
    "embed_seconds_32",
    "texts_per_second",
    "macro_accuracy",
    "tail_accuracy",
    "auroc",
    "calibration_error",
    "image_seconds",
    "image_seconds_32",
    "images_per_second",
    "frechet_distance",
    "recall",
    "precision",
    "class_accuracy",
    "linear_probe_accuracy",
    "knn_accuracy",
    "num_forwards",
)
# Behind a figure's name: divided by the original's.
RATIO = "_ratio"
# What a person decides by, in that order: of the model itself, then of each of its other forms. MLflow's page of a version shows
# so many at most.
PAGE_MODEL = (
    "frechet_distance",
    "frechet_distance_ratio",
    "recall_ratio",
    "num_forwards",
    "accuracy",
    "accuracy_ratio",
    "spearman",
    "spearman_ratio",
    "ndcg_10",
    "ndcg_10_ratio",
    "span_f1",
    "span_f1_ratio",
    "perplexity_ratio",
    "num_parameters_ratio",
    "disk_bytes",
    "memory_bytes",
    "decode_seconds_per_token_ratio",
    "embed_seconds_ratio",
)
PAGE_FORM = (
    "frechet_distance_ratio",
    "accuracy_ratio",
    "spearman_ratio",
    "ndcg_10_ratio",
    "span_f1_ratio",
    "disk_bytes",
    "decode_seconds_per_token_ratio",
    "embed_seconds_ratio",
)
MAX_ON_PAGE = 12


def page_figures(numbers: Mapping[str, str], forms: Iterable[str]) -> dict[str, str]:
    """Return the dozen of `number_tags` that a person decides by."""
    names = [f"model.{measure}" for measure in PAGE_MODEL]
    names += [f"{form}.{measure}" for measure in PAGE_FORM for form in forms if form != "model"]
    return {name: numbers[name] for name in [name for name in names if name in numbers][:MAX_ON_PAGE]}


def figure_rows(numbers: Mapping[str, str]) -> list[dict[str, str | float | None]]:
    """Return `number_tags` as a table. A figure a row, with its interval, its ratio to the original's, and that ratio's interval."""
    beside = {"": "", "low": LOW, "high": HIGH, "ratio": RATIO, "ratio_low": RATIO + LOW, "ratio_high": RATIO + HIGH}
    names = [name for name in numbers if not any(_is_behind(name, end, numbers) for end in beside.values() if end)]
    return [
        {"figure": name}
        | {
            column or "value": float(numbers[name + end]) if name + end in numbers else None
            for column, end in beside.items()
        }
        for name in names
    ]


def _is_behind(name: str, end: str, numbers: Mapping[str, str]) -> bool:
    return name.endswith(end) and name.removesuffix(end) in numbers


def measured(evaluation: EvaluationArtifact) -> dict[str, float]:
    """Return the numbers of an evaluation's facts."""
    return {
        name: float(value)
        for name, value in evaluation.facts.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def number_tags(
    figures: Mapping[str, Mapping[str, float]],
    baseline: Mapping[str, float],
    scan: Mapping[str, float],
    ratios: Mapping[str, Mapping[str, Ratio]] | None = None,
) -> dict[str, str]:
    """Return `form.measure`, `form.measure_ratio` (divided by the original's) and `scan.metric`, as numbers in text.

    `ratios`: those known with their intervals, which are told too; of a time that nothing can be decided by, none is. Ends of intervals
    and counts of questions make no ratio. Plain decimals of six significant digits: what reads them as numbers sorts
    them, and no exponent misleads what does not.
    """
    numbers = {f"scan.{metric}": value for metric, value in scan.items()}
    for form, some in figures.items():
        numbers |= {f"{form}.{measure}": value for measure, value in some.items()}
        numbers |= {
            f"{form}.{measure}{RATIO}": value / baseline[measure]
            for measure, value in some.items()
            if baseline.get(measure) and is_figure(measure) and not measure.startswith("draft_")
        }
        for measure, ratio in (ratios or {}).get(form, {}).items():
            ends = {"": ratio.value, LOW: ratio.low, HIGH: ratio.high}
            for end, value in ends.items():
                numbers.pop(f"{form}.{measure}{RATIO}{end}", None)
                if value is not None and not ratio.undecided:
                    numbers[f"{form}.{measure}{RATIO}{end}"] = value
    return {name: plain(value) for name, value in numbers.items()}


def plain(value: float) -> str:
    """Return a number as text without an exponent: whole ones exactly, others to six significant digits."""
    if float(value).is_integer():
        return str(int(value))
    return np.format_float_positional(value, precision=6, fractional=False, trim="-")


def scan_scores(store: Store, ancestors: Iterable[Ancestor]) -> dict[str, float]:
    """Return the score of the removed window under each metric that scored it; the largest where several cuts were made."""
    scores: dict[str, float] = {}
    for cut in ancestors:
        scan = next((parent for parent in cut.inputs if parent.via == "scan" and parent.is_present), None)
        if cut.stage != "prune" or scan is None:
            continue
        removed = [int(index) for index in several(cut.facts, "removed_blocks")]
        table = store.load(scan.stage, scan.key).path / TABLE
        for metric in scored_metrics(table):
            score = read_scores(table, metric).get((removed[0], len(removed))) if _is_window(removed) else None
            if score is not None:
                scores[metric] = max(score, scores.get(metric, score))
    return scores


def _is_window(removed: list[int]) -> bool:
    return bool(removed) and removed == list(range(removed[0], removed[0] + len(removed)))
