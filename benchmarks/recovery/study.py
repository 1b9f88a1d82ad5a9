"""What is left of a model after blocks are removed, arm by arm: one command, resumable, a table and a plot.

python benchmarks/recovery/study.py MODEL_FOLDER DATA_FOLDER [--sizes 2,4,6,8,10] [--seeds 3] [--steps 150] [--rows 400] [--out FOLDER]
DATA_FOLDER holds gsm8k, arc_easy, csqa and wikitext2. Several seeds are run at 6 blocks alone. Everything built lies in ATTAR_HOME, so
the same command goes on where it ended.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import typer
import yaml

matplotlib.use("Agg")
from arms import ARMS, TRAINED, recipe
from matplotlib import pyplot as plt

ATTAR = Path(sys.executable).with_name("attar")
COLUMNS = {
    "perplexity_ratio": ("wikitext_test",),
    "kl_nats": ("wikitext_test", "gsm8k_test", "own_answers"),
    "agreement": ("wikitext_test", "own_answers"),
    "retention": ("arc_easy", "csqa", "facts"),
}
SEEDED_SIZE = 6


def main(
    model: str,
    data: Path,
    sizes: Annotated[str, typer.Option(help="Numbers of blocks to remove.")] = "2,4,6,8,10",
    seeds: int = 3,
    steps: int = 150,
    rows: int = 400,
    out: Path = Path("recovery"),
) -> None:
    """Run every size and seed that is missing, then write table.md and recovery.png."""
    out.mkdir(parents=True, exist_ok=True)
    num_blocks = json.loads((Path(model) / "config.json").read_text())["num_hidden_layers"]
    results: dict[tuple[int, int], dict[str, Any]] = {}
    for size in map(int, sizes.split(",")):
        for seed in range(seeds if size == SEEDED_SIZE else 1):
            made = recipe(
                model, data.resolve(), num_blocks=num_blocks, num_removed=size, seed=seed, steps=steps, rows=rows
            )
            path = out / f"{made['name']}.yaml"
            path.write_text(yaml.safe_dump(made, sort_keys=False))
            done = subprocess.run(
                [str(ATTAR), "run", str(path), "--json"], stdout=subprocess.PIPE, text=True, check=True
            )
            results[size, seed] = arms_of(json.loads(done.stdout))
            write(results, out)


def arms_of(run: dict[str, Any]) -> dict[str, Any]:
    """Return what was measured of each arm, and how long its training took."""
    found = {}
    for arm in ARMS:
        shown = subprocess.run(
            [str(ATTAR), "show", run["nodes"][f"{arm}_left"]["key"], "--json"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        folder = Path(json.loads(shown.stdout)["artifact"]["path"])
        found[arm] = json.loads((folder / "comparison.json").read_text())
        adapter = run["nodes"].get(f"{arm}_adapter")
        found[arm]["training_minutes"] = adapter["seconds"] / 60 if adapter else math.nan
    return found


def write(results: dict[tuple[int, int], dict[str, Any]], out: Path) -> None:
    """Write a table a size, with 95% intervals, and the plot over sizes."""
    lines = []
    for (size, seed), arms in results.items():
        heads = [f"{measure} {name}" for measure, names in COLUMNS.items() for name in names]
        lines += [
            f"\n{size} blocks removed, seed {seed}\n",
            "| arm | " + " | ".join(heads) + " |",
            "|---" * (len(heads) + 1) + "|",
        ]
        for arm, measured in arms.items():
            cells = [interval(measured[name][measure]) for measure, names in COLUMNS.items() for name in names]
            lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {arm}: {what}" for arm, what in ARMS.items())]
    (out / "table.md").write_text("\n".join(lines) + "\n")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    sizes = sorted({size for size, _ in results})
    for arm in ARMS:
        style = "-o" if arm in TRAINED else "--s"
        left.plot(
            sizes,
            [results[size, 0][arm]["wikitext_test"]["perplexity_ratio"]["value"] for size in sizes],
            style,
            label=arm,
        )
        right.plot(
            sizes, [results[size, 0][arm]["own_answers"]["kl_nats"]["value"] for size in sizes], style, label=arm
        )
    left.set(xlabel="blocks removed", ylabel="WikiText perplexity / original's", yscale="log")
    right.set(xlabel="blocks removed", ylabel="KL to the original on its own answers, nats a token", yscale="log")
    right.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out / "recovery.png", dpi=130)
    plt.close(figure)


def interval(entry: dict[str, float]) -> str:
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


if __name__ == "__main__":
    typer.run(main)
