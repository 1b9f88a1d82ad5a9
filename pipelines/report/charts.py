"""The report's charts as inline SVG: block distances, loss curve, retention."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display on a server; must come before pyplot
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from attar.registry.release.gate import Ratio

# Inches: on a phone a chart fits, and its letters can be read.
WIDTH = 3.7
INK, ACCENT, MUTED = "#1d2733", "#c2571a", "#7c8a99"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text: searchable, and small
    "svg.hashsalt": "attar",
}


def heat_map(scores: Mapping[tuple[int, int], float], removed: Sequence[int], metric: str) -> str:
    """Return the score of every window: first block across, window size up; the removed window is outlined."""
    num_blocks = max(first + size for first, size in scores)  # a metric may score some sizes alone
    grid = np.full((num_blocks, num_blocks), np.nan)
    for (first, size), score in scores.items():
        grid[size - 1, first] = score
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 2.9))
        image = axes.imshow(
            grid, origin="lower", cmap="viridis", aspect="auto", extent=(-0.5, num_blocks - 0.5, 0.5, num_blocks + 0.5)
        )
        figure.colorbar(image, ax=axes, label=metric.replace("_", " "))
        axes.set(xlabel="first block of the window", ylabel="blocks in the window")
        _count(axes.xaxis, axes.yaxis)
        if removed and list(removed) == list(range(removed[0], removed[-1] + 1)):
            center = (removed[0] - 0.5, len(removed) - 0.5)
            axes.add_patch(Rectangle(center, 1, 1, fill=False, edgecolor=ACCENT, linewidth=2.5))
            axes.annotate(
                f"removed: {removed[0]} to {removed[-1]}",
                (removed[0] + 0.4, len(removed) + 0.4),  # inside: what points out of the axes is not drawn
                xytext=(num_blocks * 0.4, num_blocks * 0.88),
                arrowprops={"arrowstyle": "->", "color": ACCENT},
                color=ACCENT,
            )
        return _svg(figure)


def loss_curve(curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Return loss over steps, training thin and held-out with markers."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 2.5))
        for index, (name, points) in enumerate(sorted(curves.items())):
            steps, losses = zip(*points, strict=True)
            is_heldout = "heldout" in name
            axes.plot(
                steps,
                losses,
                color=plt.get_cmap("tab10")(index),
                linewidth=1.8 if is_heldout else 0.9,
                marker="o" if is_heldout else None,
                markersize=3,
                label=name.removesuffix("_nats").replace("_", " "),
            )
        axes.set(xlabel="step", ylabel="nats a token", ylim=(0, None))
        _count(axes.xaxis)
        axes.legend(frameon=False)
        return _svg(figure)


def retention_bars(retention: Mapping[str, Mapping[str, Ratio]]) -> str:
    """Return, for each model, bars of its share of the original's accuracy by task, with the 95% intervals."""
    tasks = sorted({task for values in retention.values() for task in values})
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 0.7 + 0.28 * len(tasks) * len(retention)))
        height = 0.8 / max(1, len(retention))
        for index, (model, values) in enumerate(retention.items()):
            known = [(row, values[task]) for row, task in enumerate(tasks) if task in values]
            heights = [row + (index - (len(retention) - 1) / 2) * height for row, _ in known]
            shares = [100.0 * ratio.value for _, ratio in known]
            axes.barh(heights, shares, height * 0.9, label=model, color=plt.get_cmap("tab10")(index))
            for at, (_, ratio) in zip(heights, known, strict=True):
                end = 100 * max(ratio.value, ratio.high or 0.0)
                axes.annotate(f"{ratio.value:.0%}", (end, at), xytext=(4, 0), textcoords="offset points", va="center")
                if ratio.low is not None and ratio.high is not None:
                    ends = [100 * ratio.low, 100 * ratio.high]
                    axes.plot(ends, [at, at], color=INK, linewidth=1.2, marker="|", markersize=5)
        axes.axvline(100.0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(tasks)), tasks)
        axes.invert_yaxis()
        axes.set(xlabel="share of the original's accuracy, %\nline: 95% interval", xlim=(0, None))
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(4, len(retention)))
        return _svg(figure)


def front_chart(
    points: Sequence[tuple[float, float]], chosen: tuple[float, float], measured_nats: float | None, quantity: str
) -> str:
    """Return the front of all plans: share of a quantity left across, loss up. The chosen plan is marked."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 2.7))
        shares, losses = zip(*[(100.0 * share, loss) for share, loss in points], strict=True)
        axes.plot(shares, losses, color=MUTED, linewidth=1.2, marker=".", markersize=3, label="best plans, predicted")
        axes.plot(100.0 * chosen[0], chosen[1], "o", color=ACCENT, label="this plan, predicted")
        if measured_nats is not None:
            axes.plot(100.0 * chosen[0], measured_nats, "x", color=INK, label="measured after its repair")
        axes.set(xlabel=f"{quantity} left, %", ylabel="nats a token", ylim=(0, None))
        axes.legend(frameon=False, fontsize=8)
        return _svg(figure)


def _count(*axes: Axis) -> None:
    for axis in axes:
        axis.set_major_locator(MaxNLocator(integer=True))


def confusion(table: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Return which classes go for which. A row a class, the share of its images across, how many where there are any."""
    counts = np.asarray(table, float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    labels = [name if len(name) <= 12 else f"{name[:11]}…" for name in names]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, WIDTH))
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        for row, column in np.argwhere(counts > 0):
            ink = "white" if shares[row, column] > 0.5 else INK
            axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=ink, fontsize=7)
        ticks = range(len(labels))
        axes.set_xticks(ticks, labels, rotation=90)
        axes.set_yticks(ticks, labels)
        axes.set(xlabel="class by the model", ylabel="class")
        return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
