"""Plots of the site, drawn from result files while it is built."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no display where a site is built; must come before pyplot
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from docs.generate.results import read_results

RECOVERY = "recovery-2-4-6-8-10"
# Column of the result, and what the axis says.
PANELS = (
    ("perplexity_ratio wikitext_test", "WikiText perplexity / original's"),
    ("kl_nats own_answers", "KL on own answers, nats a token"),
)
# Arms that train nothing are dashed.
ARMS = {
    "pruned": "--",
    "sft": "-",
    "self_data": "-",
    "self_data_kl": "-",
    "patched_self_data_kl": "-",
    "refitted": "--",
    "refitted_full_kl": "-",
    "thinner_refitted": "--",
    "thinner_refitted_full_kl": "-",
}
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "attar", "font.size": 9, "font.family": "sans-serif"}


def plot_pages() -> dict[str, str]:
    """Return the plots by path within the site; none whose result file is not there."""
    return {"pictures/recovery.svg": recovery_plot()} if RECOVERY in read_results() else {}


def recovery_plot() -> str:
    """Return the study over sizes as SVG: a line an arm, a panel a measure, with 95% intervals as bars."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(PANELS), figsize=(9, 4.2), layout="constrained")
        for axes, (column, label) in zip(panels, PANELS, strict=True):
            for index, (arm, line) in enumerate(ARMS.items()):
                _draw(axes, points(arm, column), index, arm, line)
            axes.set(xlabel="blocks removed of 30", ylabel=label, yscale="log", xticks=[2, 4, 6, 8, 10])
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
            for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.spines[["top", "right"]].set_visible(False)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="white")
        plt.close(figure)
    return buffer.getvalue()


def points(arm: str, column: str) -> list[tuple[int, float, float, float]]:
    """Return (blocks removed, value, low, high) of an arm, by size."""
    rows = []
    for table in read_results()[RECOVERY]["tables"]:
        size = re.match(r"(\d+) blocks removed, seed 0$", table["title"])
        row = next((row for row in table["rows"] if row[0] == arm), None)
        if size and row:
            value, low, high = re.findall(r"[-\d.]+", row[table["columns"].index(column)])
            rows.append((int(size[1]), float(value), float(low), float(high)))
    return sorted(rows)


def _draw(axes: Axes, measured: list[tuple[int, float, float, float]], index: int, arm: str, line: str) -> None:
    sizes, values, lows, highs = zip(*measured, strict=True)
    below = [value - low for value, low in zip(values, lows, strict=True)]
    above = [high - value for value, high in zip(values, highs, strict=True)]
    color = plt.get_cmap("tab10")(index)
    axes.errorbar(
        sizes, values, (below, above), linestyle=line, marker="o", markersize=3, color=color, label=arm, elinewidth=0.8
    )
