"""Retention of a model after blocks are removed, arm by arm: one command, resumable, a table and a plot.

python benchmarks/recovery/study.py MODEL DATA_FOLDER [--sizes 6,2,4,8,10] [--seeds 0,1,2] [--steps 48] [--rows 300] [--asked 150]
    [--text-tokens 12288] [--precision auto] [--arms A,B] [--models-at-once N] [--out FOLDER]
    [--plan]
MODEL is a folder, or a YAML file with the config of `ingest_model`; --plan shows what would run. DATA_FOLDER holds gsm8k, arc_easy, csqa,
self_instruct and wikitext2. At 6 blocks the arms that train are run with several seeds, after all sizes.
Everything built lies in ATTAR_HOME, so the same command goes on where it ended; the table and the plot hold what is there after each
recipe.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import typer
import yaml

matplotlib.use("Agg")
sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from arms import ARMS, COMPARED, SEEDED_SIZE, STUDENTS, UNTRAINED, blocks_of, recipe
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator
from reading import instruction, read_rows
from result_file import read_tables, write_result

ATTAR = Path(sys.executable).with_name("attar")
COLUMNS = {
    "perplexity_ratio": ("wikitext_test",),
    "kl_nats": ("wikitext_test", "gsm8k_test", "own_answers"),
    "agreement": ("wikitext_test", "own_answers"),
    "loss_nats": ("gsm8k_test", "instructions"),
    "retention": ("arc_easy", "csqa", "facts"),
}
# Between the names of two arms whose difference is told.
MINUS = " minus "
# data set, measure, and what the axis says
PLOTTED = (
    ("wikitext_test", "perplexity_ratio", "WikiText perplexity / original's"),
    ("own_answers", "kl_nats", "KL to the original on its own answers, nats a token"),
)
COLORS = plt.get_cmap("tab20")
# Difference of two arms, on the same texts and questions.
DIFFERENCES = {
    "kl_nats": COLUMNS["kl_nats"],
    "agreement": COLUMNS["agreement"],
    "loss_nats": COLUMNS["loss_nats"],
    "accuracy": COLUMNS["retention"],
}
# What an arm cost and what it costs to run; empty where that was not measured.
COSTS = {
    "exact match gsm8k_test": lambda arm: cell(arm, "answers", "accuracy", "{:.3f}"),
    "decode ms a token": lambda arm: cell(arm, "cost", "decode_seconds_per_token", "{:.1f}", 1e3),
    "training, CPU minutes": lambda arm: cell(arm, "training", "cpu_seconds", "{:.1f}", 1 / 60),
    "training, peak GB": lambda arm: cell(arm, "training", "peak_bytes", "{:.2f}", 1e-9),
}


def main(
    model: str,
    data: Path,
    sizes: Annotated[str, typer.Option(help="Numbers of blocks to remove.")] = "6,2,4,8,10",
    seeds: Annotated[str, typer.Option(help="The first is every size's; the others are run at 6 blocks.")] = "0,1,2",
    steps: int = 48,
    rows: int = 300,
    num_questions: int = 150,
    text_tokens: int = 12288,
    precision: Annotated[str, typer.Option(help="Of training and measuring: auto, float32 or bfloat16.")] = "auto",
    arms: Annotated[str, typer.Option(help="Arms to run; all when empty.")] = "",
    models_at_once: Annotated[int, typer.Option(help="Arms in memory while they are compared; 0: all.")] = 0,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would run.")] = False,
    out: Path = Path("recovery"),
) -> None:
    """Run every size and seed that is missing, then write table.md, recovery.png and benchmarks/results/recovery-SIZES.json."""
    out.mkdir(parents=True, exist_ok=True)
    chosen = arms.split(",") if arms else list(ARMS)
    if unknown := set(chosen) - set(ARMS):
        raise typer.BadParameter(f"unknown arms {', '.join(sorted(unknown))}; known: {', '.join(ARMS)}")
    results: dict[tuple[int, int], dict[str, Any]] = {}
    instructions = instruction_rows(
        data / "self_instruct/user_oriented_instructions.jsonl", out.resolve() / "instructions.jsonl"
    )
    first, *others = numbers(seeds, "--seeds")
    runs = [(size, first) for size in numbers(sizes, "--sizes")]
    runs += [(SEEDED_SIZE, seed) for seed in others if (SEEDED_SIZE, first) in runs]
    counts = {
        "steps": steps,
        "rows": rows,
        "asked": num_questions,
        "text_tokens": text_tokens,
        "models_at_once": models_at_once,
    }
    try:
        counts["num_blocks"] = blocks_of(model)
    except (OSError, KeyError, TypeError):
        accepted = (
            "a folder with config.json, or a YAML file with the config of ingest_model whose expect tells num_blocks"
        )
        raise typer.BadParameter(f"model is {model!r}; accepted: {accepted}") from None
    for size, seed in runs:
        differing = [arm for arm in chosen if seed == first or arm not in UNTRAINED]
        made = recipe(
            model,
            data.resolve(),
            instructions,
            num_removed=size,
            seed=seed,
            precision=precision,
            arms=differing,
            **counts,
        )
        path = out / f"{made['name']}.yaml"
        path.write_text(yaml.safe_dump(made, sort_keys=False))
        if plan:
            attar("plan", str(path))
            continue
        results[size, seed] = arms_of(json.loads(attar("run", str(path), "--json", is_read=True)))
        lines = write(results, out)
        keep_tables(f"recovery-{sizes.replace(',', '-')}", lines)


def keep_tables(name: str, lines: list[str]) -> None:
    """Write tables to benchmarks/results/NAME.json, from which the documentation takes them."""
    write_result(name, *read_tables("\n".join(lines)))


def attar(*arguments: str, is_read: bool = False) -> str:
    """Run the command line; return what it printed where that is to be read. What it refused it has said: this ends as it did."""
    done = subprocess.run([str(ATTAR), *arguments], stdout=subprocess.PIPE if is_read else None, text=True, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
    return done.stdout or ""


def numbers(part_of_arm: str, option: str) -> list[int]:
    """Return the numbers of an option that is a list."""
    try:
        return [int(part) for part in part_of_arm.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{option} is {part_of_arm!r}; accepted: whole numbers with commas between them"
        ) from None


def instruction_rows(source: Path, target: Path) -> Path:
    """Write the instructions, each with its first input, as questions and answers; return where."""
    rows = []
    for task in read_rows(source):
        answer = task["instances"][0]["output"]
        rows.append(json.dumps({"question": instruction(task), "answer": answer, "verifier": "none"}))
    target.write_text("\n".join(rows) + "\n")
    return target


def arms_of(run: dict[str, Any]) -> dict[str, Any]:
    """Return what was measured of each arm and between two of them, and what its training cost: of a merge, that of its students."""
    arms: dict[str, Any] = {"original": {}}
    for name in [arm for arm in COMPARED if arm in run["nodes"]]:
        arms |= comparison(run, name)
    for arm in [name for name in arms if MINUS not in name]:
        for part in [part for part in ("cost", "answers") if f"{arm}_{part}" in run["nodes"]]:
            arms[arm][part] = shown(run, f"{arm}_{part}")["artifact"]["facts"]
        learners = [f"{arm_read}_adapter" for arm_read in STUDENTS.get(arm, (arm,))]
        spent = [shown(run, name)["manifest"] for name in learners if name in run["nodes"]]
        if all(cost.get("cpu_seconds") for cost in spent) and spent:
            arms[arm]["training"] = {
                "cpu_seconds": sum(cost["cpu_seconds"] for cost in spent),
                "peak_bytes": max(cost["peak_bytes"] for cost in spent),
            }
    return arms


def comparison(run: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what a `compare` node measured."""
    return json.loads((Path(shown(run, name)["artifact"]["path"]) / "comparison.json").read_text())


def shown(run: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what the store knows of a node's artifact."""
    return json.loads(attar("show", run["nodes"][name]["key"], "--json", is_read=True))


def write(results: dict[tuple[int, int], dict[str, Any]], out: Path) -> list[str]:
    """Write a table a size, with 95% intervals, one of what lies between two arms, and the plot over sizes; return the tables' lines."""
    lines = []
    for (size, seed), result in results.items():
        lines += table(f"{size} blocks removed, seed {seed}", result, COLUMNS, COSTS)
        lines += table(f"{size} blocks removed, seed {seed}, differences", result, DIFFERENCES)
    seeded = [result for (size, _), result in results.items() if size == SEEDED_SIZE]
    if len(seeded) > 1:
        together = {arm: over_seeds([result[arm] for result in seeded]) for arm in seeded[-1]}
        title = f"{SEEDED_SIZE} blocks removed, mean over {len(seeded)} seeds [smallest, largest]"
        lines += table(title, together, COLUMNS)
        lines += table(f"{title}, differences", together, DIFFERENCES)
    lines += ["", *(f"- {arm}: {what}" for arm, what in ARMS.items())]
    (out / "table.md").write_text("\n".join(lines) + "\n")
    plot(results, out / "recovery.png")
    return lines


def plot(results: dict[tuple[int, int], dict[str, Any]], path: Path) -> None:
    """Draw each arm over the sizes, what trains nothing dashed. The last blocks removed is off the chart, or nothing else could be told apart."""
    size_of_all, seed = next(iter(results))
    sizes = sorted({size for size, _ in results})
    arms = [result for result in results[size_of_all, seed] if result in ARMS]
    figure, axes = plt.subplots(1, 2, figsize=(11, 5.6), layout="constrained")
    for axis, (data, measure, label) in zip(axes, PLOTTED, strict=True):
        shown_values: list[float] = []
        for index, arm in enumerate(arms):
            values = [results[size, seed][arm][data][measure]["value"] for size in sizes]
            line, marker = ("--", "s") if arm in UNTRAINED else ("-", "o")
            # more arms than colours: those of the second round have another marker
            marker = marker if index < COLORS.N else "^"
            axis.plot(sizes, values, line, marker=marker, label=arm, color=COLORS(index % COLORS.N), markersize=4)
            shown_values += values if arm != "reversed" else []
        axis.set(xlabel="blocks removed", ylabel=label, yscale="log", xticks=sizes)
        if shown_values:
            axis.set_ylim(0.85 * min(shown_values), 1.15 * max(shown_values))
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        for set_formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def over_seeds(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over the seeds of all that one arm has, with the smallest and the largest in the interval's place."""
    together: dict[str, dict[str, dict[str, float]]] = {}
    for columns in (COLUMNS, DIFFERENCES):
        for measure, names in columns.items():
            for name in names:
                values = [seed[name][measure]["value"] for seed in seeds if measure in seed.get(name, {})]
                if values:
                    estimate = {"value": sum(values) / len(values), "low": min(values), "high": max(values)}
                    together.setdefault(name, {})[measure] = estimate
    return together


def table(
    title: str,
    arms: dict[str, Any],
    columns: dict[str, tuple[str, ...]],
    costs: dict[str, Callable[[dict[str, Any]], str]] | None = None,
) -> list[str]:
    """Return a table's lines: a row an arm, or two arms' difference, whichever has these columns; none where there is no row.

    The original is what all are measured against: it has costs alone.
    """
    cells = [(measure, name) for measure, names in columns.items() for name in names]
    rows = {arm: figures for arm, figures in arms.items() if (MINUS in arm) == (columns is DIFFERENCES)}
    if not costs:
        rows.pop("original", None)
    if not rows:
        return []
    names = [f"{measure} {name}" for measure, name in cells] + list(costs or {})
    lines = [f"\n{title}\n", "| arm | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for arm, measured in rows.items():
        described_in = [interval(measured[name][measure]) if name in measured else "" for measure, name in cells] + [
            of(measured) for of in (costs or {}).values()
        ]
        lines.append(f"| {arm} | " + " | ".join(described_in) + " |")
    return lines


def cell(arm: dict[str, Any], part: str, name: str, form: str, factor: float = 1.0) -> str:
    value = arm.get(part, {}).get(name)
    return "" if value is None else form.format(value * factor)


def interval(entry: dict[str, float]) -> str:
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


if __name__ == "__main__":
    typer.run(main)
