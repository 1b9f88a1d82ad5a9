"""What is left of a model after blocks are removed, arm by arm: one command, resumable, a table and a plot.

python benchmarks/recovery/study.py MODEL_FOLDER DATA_FOLDER [--sizes 6,2,4,8,10] [--seeds 0,1,2] [--steps 48] [--rows 300] [--asked 150]
    [--text-tokens 12288] [--precision auto] [--arms A,B] [--out FOLDER]
DATA_FOLDER holds gsm8k, arc_easy, csqa, self_instruct and wikitext2. At 6 blocks the arms that train are run with several seeds, after all sizes.
Everything built lies in ATTAR_HOME, so the same command goes on where it ended; the table and the plot hold what is there after each
recipe.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import typer
import yaml

matplotlib.use("Agg")
from arms import ARMS, COMPARED, SEEDED_SIZE, UNTRAINED, recipe
from matplotlib import pyplot as plt

ATTAR = Path(sys.executable).with_name("attar")
COLUMNS = {
    "perplexity_ratio": ("wikitext_test",),
    "kl_nats": ("wikitext_test", "gsm8k_test", "own_answers"),
    "agreement": ("wikitext_test", "own_answers"),
    "loss_nats": ("gsm8k_test", "instructions"),
    "retention": ("arc_easy", "csqa", "facts"),
}
# What an arm cost and what it costs to run; empty where that was not measured.
COSTS = {
    "exact match gsm8k_test": lambda arm: told(arm, "answers", "accuracy", "{:.3f}"),
    "decode ms a token": lambda arm: told(arm, "cost", "decode_seconds_per_token", "{:.1f}", 1e3),
    "training, CPU minutes": lambda arm: told(arm, "training", "cpu_seconds", "{:.1f}", 1 / 60),
    "training, peak GB": lambda arm: told(arm, "training", "peak_bytes", "{:.2f}", 1e-9),
}


def main(
    model: str,
    data: Path,
    sizes: Annotated[str, typer.Option(help="Numbers of blocks to remove.")] = "6,2,4,8,10",
    seeds: Annotated[str, typer.Option(help="The first is every size's; the others are run at 6 blocks.")] = "0,1,2",
    steps: int = 48,
    rows: int = 300,
    asked: int = 150,
    text_tokens: int = 12288,
    precision: Annotated[str, typer.Option(help="Of training and measuring: auto, float32 or bfloat16.")] = "auto",
    arms: Annotated[str, typer.Option(help="Arms to run; all when empty.")] = "",
    out: Path = Path("recovery"),
) -> None:
    """Run every size and seed that is missing, then write table.md and recovery.png."""
    out.mkdir(parents=True, exist_ok=True)
    chosen = arms.split(",") if arms else list(ARMS)
    if unknown := set(chosen) - set(ARMS):
        raise typer.BadParameter(f"unknown arms {', '.join(sorted(unknown))}; known: {', '.join(ARMS)}")
    num_blocks = json.loads((Path(model) / "config.json").read_text())["num_hidden_layers"]
    results: dict[tuple[int, int], dict[str, Any]] = {}
    told = instruction_rows(
        data / "self_instruct/user_oriented_instructions.jsonl", out.resolve() / "instructions.jsonl"
    )
    first, *others = numbers(seeds, "--seeds")
    runs = [(size, first) for size in numbers(sizes, "--sizes")]
    runs += [(SEEDED_SIZE, seed) for seed in others if (SEEDED_SIZE, first) in runs]
    counts = {"num_blocks": num_blocks, "steps": steps, "rows": rows, "asked": asked, "text_tokens": text_tokens}
    for size, seed in runs:
        differing = [arm for arm in chosen if seed == first or arm not in UNTRAINED]
        made = recipe(
            model, data.resolve(), told, num_removed=size, seed=seed, precision=precision, arms=differing, **counts
        )
        path = out / f"{made['name']}.yaml"
        path.write_text(yaml.safe_dump(made, sort_keys=False))
        done = subprocess.run([str(ATTAR), "run", str(path), "--json"], stdout=subprocess.PIPE, text=True, check=True)
        results[size, seed] = arms_of(json.loads(done.stdout))
        write(results, out)


def numbers(told: str, option: str) -> list[int]:
    """Return the numbers of an option that is a list."""
    try:
        return [int(part) for part in told.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{option} is {told!r}; accepted: whole numbers with commas between them") from None


def instruction_rows(source: Path, target: Path) -> Path:
    """Write the instructions, each with its first input, as questions and answers; return where."""
    rows = []
    for line in source.read_text().splitlines():
        task = json.loads(line)
        first = task["instances"][0]
        asked = "\n\n".join(part for part in (task["instruction"], first["input"]) if part)
        rows.append(json.dumps({"question": asked, "answer": first["output"], "verifier": "none"}))
    target.write_text("\n".join(rows) + "\n")
    return target


def arms_of(run: dict[str, Any]) -> dict[str, Any]:
    """Return what was measured of each arm, and how long its training took."""
    found: dict[str, Any] = {}
    for name in [one for one in COMPARED if one in run["nodes"]]:
        found |= json.loads((Path(shown(run, name)["artifact"]["path"]) / "comparison.json").read_text())
    for arm in found:
        trained = [name for name in (f"{arm}_adapter", f"{arm}_cost", f"{arm}_answers") if name in run["nodes"]]
        for name in trained:
            artifact = shown(run, name)
            if name.endswith("_adapter"):
                found[arm]["training"] = {
                    name: artifact["manifest"].get(name) for name in ("cpu_seconds", "peak_bytes")
                }
            else:
                found[arm][name.removeprefix(f"{arm}_")] = artifact["artifact"]["facts"]
    return found


def shown(run: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what the store knows of a node's artifact."""
    done = subprocess.run(
        [str(ATTAR), "show", run["nodes"][name]["key"], "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def write(results: dict[tuple[int, int], dict[str, Any]], out: Path) -> None:
    """Write a table a size, with 95% intervals, and the plot over sizes."""
    lines = []
    for (size, seed), arms in results.items():
        lines += head(f"{size} blocks removed, seed {seed}", list(COSTS))
        for arm, measured in arms.items():
            cells = [interval(measured[name][measure]) for measure, names in COLUMNS.items() for name in names]
            cells += [cost(measured) for cost in COSTS.values()]
            lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    seeded = [arms for (size, _), arms in results.items() if size == SEEDED_SIZE]
    if len(seeded) > 1:
        lines += over_seeds(seeded)
    lines += ["", *(f"- {arm}: {what}" for arm, what in ARMS.items())]
    (out / "table.md").write_text("\n".join(lines) + "\n")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    size_of_all, seed_of_all = next(iter(results))
    sizes = sorted({size for size, _ in results})
    for arm in results[size_of_all, seed_of_all]:
        style = "--s" if arm in UNTRAINED else "-o"
        left.plot(
            sizes,
            [results[size, seed_of_all][arm]["wikitext_test"]["perplexity_ratio"]["value"] for size in sizes],
            style,
            label=arm,
        )
        right.plot(
            sizes,
            [results[size, seed_of_all][arm]["own_answers"]["kl_nats"]["value"] for size in sizes],
            style,
            label=arm,
        )
    left.set(xlabel="blocks removed", ylabel="WikiText perplexity / original's", yscale="log")
    right.set(xlabel="blocks removed", ylabel="KL to the original on its own answers, nats a token", yscale="log")
    right.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out / "recovery.png", dpi=130)
    plt.close(figure)


def over_seeds(seeded: list[dict[str, Any]]) -> list[str]:
    """Return the table of the arms' means over the seeds, with the smallest and the largest."""
    lines = head(f"{SEEDED_SIZE} blocks removed, mean over {len(seeded)} seeds [smallest, largest]", [])
    for arm in seeded[-1]:
        cells = []
        for measure, names in COLUMNS.items():
            for name in names:
                values = [arms[arm][name][measure]["value"] for arms in seeded]
                cells.append(f"{sum(values) / len(values):.3f} [{min(values):.3f}, {max(values):.3f}]")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return lines


def head(title: str, more: list[str]) -> list[str]:
    """Return a table's title and first lines: a column a measure and data set, and some more."""
    names = [f"{measure} {name}" for measure, names in COLUMNS.items() for name in names] + more
    return [f"\n{title}\n", "| arm | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]


def told(arm: dict[str, Any], part: str, name: str, form: str, factor: float = 1.0) -> str:
    value = arm.get(part, {}).get(name)
    return "" if value is None else form.format(value * factor)


def interval(entry: dict[str, float]) -> str:
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


if __name__ == "__main__":
    typer.run(main)
