"""The study's tables: KL by kind of text over the seeds, and the solved plan's KL as a share of the best single axis'."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from texts import GSM8K, OWN, WIKITEXT

KINDS = (WIKITEXT, GSM8K, OWN)
NUM_RESAMPLES = 2000
BUDGETS = {
    "parameters of 24 blocks": ("window-size", "channels-size", "hidden-size", "solve-size"),
    "the same without the vocabulary": ("window-size", "channels-size", "hidden-size", "blocks-size"),
    "decode time of 24 blocks": ("window-size", "channels-time", "solve-time"),
}
# arm -> seed -> what was measured
Results = Mapping[str, Mapping[int, Mapping[str, Any]]]


def report(out: Path, seeds: Sequence[int], times: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the lines of every table."""
    results: dict[str, dict[int, Any]] = {}
    for path in sorted(out.glob("*-*.json")):
        name, _, seed = path.stem.rpartition("-")
        if seed.isdigit() and int(seed) in seeds and not name.startswith("own-"):
            results.setdefault(name, {})[int(seed)] = json.loads(path.read_text())
    lines = [*levels(results), *ratios(results), *predictions(results)]
    if times:
        lines += ["", "Decode time, ms a token, batch 1", "", "| arm | median | quartiles |", "|---|---|---|"]
        lines += [f"| {name} | {median:.2f} | {low:.2f} to {high:.2f} |" for name, (median, low, high) in times.items()]
    return lines


def levels(results: Results) -> list[str]:
    """Return lines of KL toward the original in nats a token: mean over seeds, interval over texts and seeds."""
    lines = ["", "KL to the original, nats a token, before any healing", ""]
    lines += [f"| arm | parameters M | seeds | {' | '.join(KINDS)} |", "|---" * (3 + len(KINDS)) + "|"]
    for name, by_seed in results.items():
        sizes = [result["num_parameters"] / 1e6 for result in by_seed.values()]
        cells = [interval(resampled([by_seed], kind)[0]) for kind in KINDS]
        lines.append(f"| {name} | {np.mean(sizes):.1f} | {len(by_seed)} | {' | '.join(cells)} |")
    return lines


def ratios(results: Results) -> list[str]:
    """Return lines of the solved plan's KL over a single axis' on the same texts and seeds."""
    lines = ["", "KL of the solved plan as a share of a single axis'", ""]
    lines += [f"| budget | over | {' | '.join(KINDS)} | mean of kinds |", "|---" * (3 + len(KINDS)) + "|"]
    for budget, (*singles, solved) in groups(results).items():
        for single in singles:
            if single in results and solved in results:
                pair = [results[solved], results[single]]
                cells = [interval(share(*resampled(pair, kind))) for kind in KINDS]
                overall = [np.mean([resampled(pair, kind)[index] for kind in KINDS], axis=0) for index in range(2)]
                lines.append(f"| {budget} | {single} | {' | '.join(cells)} | {interval(share(*overall))} |")
    return lines


def predictions(results: Results) -> list[str]:
    """Return lines of what was predicted of each plan, beside what the repaired plan then lost."""
    lines = [
        "",
        "Predicted (solved plans: by the repair's trials; others: by bare cuts) against measured, nats a token",
        "",
    ]
    lines += ["| arm | seed | predicted | measured, mean of kinds | seconds | plan |", "|---|---|---|---|---|---|"]
    for name, by_seed in results.items():
        for seed, result in by_seed.items():
            means = [sum(row[0] for row in rows) / sum(row[1] for row in rows) for rows in result["texts"].values()]
            figures = f"{result['predicted_nats']:.3f} | {np.mean(means):.3f} | {result['seconds']:.0f}"
            lines.append(f"| {name} | {seed} | {figures} | {result['plan']} |")
    return lines


def groups(results: Results) -> dict[str, tuple[str, ...]]:
    """Return the arms that share a budget, the solved one last."""
    others = sorted({name.partition("-")[2] for name in results} - {"size", "time"})
    return BUDGETS | {
        name: (f"window-{name}", f"channels-{name}", f"hidden-{name}", f"solve-{name}") for name in others
    }


def resampled(arms: Sequence[Mapping[int, Mapping[str, Any]]], kind: str) -> list[np.ndarray]:
    """Return the mean KL of each arm, the whole first and then of draws of texts and seeds, the same draws for all arms."""
    seeds = sorted(set.intersection(*({*arm} for arm in arms)))
    tables = [
        np.array([arm[seed]["texts"][kind] for seed in seeds], float) for arm in arms
    ]  # seeds, texts, (nats, tokens)
    draw = np.random.default_rng(0)
    means = [[table[..., 0].sum() / table[..., 1].sum()] for table in tables]
    for _ in range(NUM_RESAMPLES):
        rows, texts = draw.integers(0, len(seeds), len(seeds)), draw.integers(0, tables[0].shape[1], tables[0].shape[1])
        for table, own in zip(tables, means, strict=True):
            chosen = table[rows][:, texts]
            own.append(chosen[..., 0].sum() / chosen[..., 1].sum())
    return [np.array(own) for own in means]


def share(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return above / below


def interval(values: np.ndarray) -> str:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return f"{values[0]:.3f} [{low:.3f}, {high:.3f}]"
