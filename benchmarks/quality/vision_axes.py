"""What self-conditioning and voting teachers give on real images: features of a denoiser's middle, and what the choice of a search loses.

python benchmarks/quality/vision_axes.py HOME [--features=IMAGES.npz] [--search=IMAGES.npz] [--seeds=0,1,2] [--rows=6000]

Features: a denoiser of 14 x 14 that learns with and without self-conditioning, the same start and draws; Frechet distance of its
images, k-NN and linear probe of its middle. Search: gates on the blocks of a residual net, with and without voting teachers; accuracy with the
gates, with the choice made of them, and the difference. HOME keeps what was made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from attar.registry.artifacts.environment import configure_process

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from bench import Bench
from result_file import RESULTS, recorded

UNET = "random:unet?sample_size=14&num_classes=10&width=16"
FIGURES = ("frechet_distance", "knn_accuracy", "linear_probe_accuracy")


def taught(bench: Bench, model: Any, data: Any, objectives: Any, schedule: Mapping[str, Any], **more: Any) -> Any:
    """Return a model with what it has learned, all at its last step or, where they are evaluated oftener, at its best."""
    config = {
        "adapt": {"kind": "full"},
        "objectives": objectives,
        "schedule": {"num_epochs": 1000, **schedule},
        "heldout": {"every": schedule["max_steps"], "patience": 0},
        **more,
    }
    weights = bench.run("finetune", config, model=model, data=(data,))
    return bench.run("merge", {}, base=model, students=(weights,))


def features_part(bench: Bench, path: str, options: Mapping[str, str], seeds: Sequence[int]) -> None:
    """Compare a denoiser that conditions itself with one that does not."""
    data = bench.run(
        "ingest_images", {"source": f"npz:{path}", "max_rows": int(options.get("rows", 6000)), "heldout_fraction": 0.2}
    )
    num_steps = int(options.get("steps", 400))
    objectives = {"denoising": {"divergence": {"denoising": {"drop_fraction": 0.5}}}}
    rows = {}
    for name, is_conditioned in (("plain", False), ("self-conditioned", True)):
        measured = []
        for seed in seeds:
            form = {"kind": "denoiser", "self_conditioning": is_conditioned}
            start = bench.run("ingest_model", {"source": f"{UNET}&seed={seed}", "model": form})
            schedule = {
                "max_steps": num_steps,
                "tokens_per_step": 64,
                "learning_rate": 2e-3,
                "average_decay": 0.99,
                "seed": seed,
            }
            model = taught(bench, start, data, objectives, schedule, compute={"precision": "float32"})
            drawing = {
                "num_steps": 25,
                "num_images": 500,
                "probe": {"time_fraction": 0.1},
                "classifier": {"num_draws": 10},
            }
            measured.append(bench.run("sample", drawing, model=model, data=data).facts)
        rows[name] = measured
    print_figures(f"a denoiser of clothes, {num_steps} steps", rows, FIGURES)


def search_part(bench: Bench, path: str, options: Mapping[str, str], seeds: Sequence[int]) -> None:
    """Compare a search with and without voting teachers by what its choice loses."""
    source = {
        "source": f"npz:{path}",
        "max_rows": int(options.get("rows", 6000)),
        "heldout_fraction": 0.2,
        "choose_fraction": 0.2,
    }
    data = bench.run("ingest_images", source)
    rows: dict[str, list[Any]] = {}
    for seed in seeds:
        form = f"num_blocks=8&hidden_size=16&image_size=28&num_channels=1&num_classes=10&seed={seed}"
        net = bench.run("ingest_model", {"source": f"random:resnet?{form}", "model": {"kind": "image_classifier"}})
        schedule = {"max_steps": 150, "tokens_per_step": 64, "learning_rate": 3e-3, "seed": seed}
        model = taught(bench, net, data, {"labels": 1.0}, schedule, compute={"tokens_per_micro_batch": 64})
        for name, weight in (("DARTS", 0.0), ("voting teachers", 1.0)):
            config = {
                "num_steps": int(options.get("searched", 100)),
                "voting": {"weight": weight},
                "num_removed": 3,
                "seed": seed,
            }
            scan = bench.run("search_blocks", config, model=model, data=data)
            lines = map(json.loads, (scan.path / "records" / "metrics.jsonl").read_text().splitlines())
            rows.setdefault(name, []).append({entry["name"]: entry["value"] for entry in lines})
    print_figures(
        "gates on 8 blocks, 3 of them out", rows, ("supernet_accuracy", "discretized_accuracy", "discretization_gap")
    )


def print_figures(title: str, measured: Mapping[str, Sequence[Any]], figures: Sequence[str]) -> None:
    """Print each figure's mean over seeds, its spread, and every seed's own."""
    print(title)
    columns = ["arm", *(name.replace("_", " ") for name in figures)]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for arm, evaluations in measured.items():
        cells = [arm]
        for name in figures:
            values = [float(facts[name]) for facts in evaluations]
            spread = f" +- {stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.3f}{spread} ({', '.join(f'{value:.3f}' for value in values)})")
        print(f"| {' | '.join(cells)} |", flush=True)


PARTS = {"features": features_part, "search": search_part}


def main() -> None:
    options = dict(word[2:].split("=") for word in sys.argv[1:] if word.startswith("--"))
    [home] = (word for word in sys.argv[1:] if not word.startswith("--"))
    seeds = [int(seed) for seed in options.get("seeds", "0,1,2").split(",")]
    configure_process()
    bench = Bench(Path(home))
    for name, part in PARTS.items():
        if name in options:
            part(bench, options[name], options, seeds)


if __name__ == "__main__":
    recorded(main, folder=RESULTS / "images")
