"""Merges of a model with perturbed copies of itself, ours and mergekit's in turn: seconds, and peak memory beyond the libraries'.

python benchmarks/speed/merge.py MODEL_FOLDER [NUM_ROUNDS [METHOD ...]]

Each merge runs in a process of its own; timed is the call alone, imports aside, with the page cache warm; beside it
CPU time, which a busy machine stretches less. Needs mergekit.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from attar.stages.artifacts.model.tensor_files import read_tensor, tensor_infos

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

SIDES = ("ours", "mergekit")
TOLERANCE = 1e-6
NOISE = 0.02  # of each tensor's standard deviation
# Method -> (our parameters, mergekit's for all, mergekit's by model); two students, and the model as base where one is read.
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "linear": ({}, {}, {"weight": 0.5}),
    "slerp": ({"t": 0.5}, {"t": 0.5}, {}),
    "task_arithmetic": ({"weights": [0.5, 0.5]}, {}, {"weight": 0.5}),
    "ties": ({"density": 0.2}, {"density": 0.2}, {"weight": 1.0}),
    "dare_linear": ({"weights": [0.5, 0.5], "rescale": "norm"}, {"density": 0.5}, {"weight": 0.5}),
    "dare_ties": ({"weights": [0.5, 0.5], "rescale": "norm"}, {"density": 0.5}, {"weight": 0.5}),
    "model_stock": ({}, {}, {}),
    "karcher": ({}, {}, {}),
}
WITHOUT_BASE = ("linear", "slerp", "karcher")


def main() -> None:
    if sys.argv[1] == "--child":
        side, method, home = sys.argv[2:]
        print(json.dumps(measured(lambda: RUNS[side](method, Path(home)))))
        return
    folder, num_rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        home = Path(name)
        shutil.copytree(folder, home / "base")
        for index in (1, 2):
            perturb(home / "base", home / f"student_{index}", index)
        infos = tensor_infos(home / "base")
        largest, whole = max(i.num_bytes for i in infos.values()), sum(i.num_bytes for i in infos.values())
        print(
            f"{folder.name}: {whole / 1e6:.0f} MB, largest tensor {largest / 1e6:.0f} MB, {num_rounds} rounds in turn, medians"
        )
        print(
            "| method | ours s | mergekit s | ratio | ratio of CPU time | ours MB | mergekit MB | numbers off by more than 1e-6 |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for method in sys.argv[3:] or METHODS:
            results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
            for round_index in range(num_rounds):
                for side in SIDES if round_index % 2 else SIDES[::-1]:
                    results[side].append(child(side, method, home))
            print(row(method, results, home), flush=True)


def child(side: str, method: str, home: Path) -> dict[str, float]:
    shutil.rmtree(home / side, ignore_errors=True)
    command = [sys.executable, __file__, "--child", side, method, str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def row(method: str, results: dict[str, list[dict[str, float]]], home: Path) -> str:
    wall, cpu = (
        {side: statistics.median(result[what] for result in results[side]) for side in SIDES}
        for what in ("seconds", "cpu_seconds")
    )
    peaks = {side: max(result["peak_bytes"] for result in results[side]) / 1e6 for side in SIDES}
    difference = "other coins" if method.startswith("dare") else f"{num_different(home)}"
    ratios = " | ".join(f"{times['ours'] / times['mergekit']:.2f}" for times in (wall, cpu))
    times = f"{wall['ours']:.2f} | {wall['mergekit']:.2f} | {ratios}"
    return f"| {method} | {times} | {peaks['ours']:.0f} | {peaks['mergekit']:.0f} | {difference} |"


def num_different(home: Path) -> int:
    ours, mergekit_tensors = (tensor_infos(home / side) for side in SIDES)
    assert ours.keys() == mergekit_tensors.keys()
    gaps = ((read_tensor(name, ours[name]) - read_tensor(name, mergekit_tensors[name])).abs() for name in ours)
    return sum(int((gap > TOLERANCE).sum()) for gap in gaps)


def perturb(source: Path, target: Path, seed: int) -> None:
    shutil.copytree(source, target)
    generator = torch.Generator().manual_seed(seed)
    state = load_file(source / "model.safetensors")
    for tensor in state.values():
        tensor.add_(
            torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype), alpha=NOISE * float(tensor.std())
        )
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})


def measured(run: Callable[[], Callable[[], None]]) -> dict[str, float]:
    """Time what `run` prepares, and its peak resident memory beyond what was there before."""
    call = run()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is resident now
    before, cpu_started, started = resident("VmRSS"), time.process_time(), time.perf_counter()
    call()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": resident("VmHWM") - before}


def resident(what: str) -> int:
    match = re.search(what + r":\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def ours(method: str, home: Path) -> Callable[[], None]:
    from attar.compressors.catalogue import build
    from attar.compressors.merge.methods import MERGE_METHODS
    from attar.stages.merge.sources import FolderSource
    from attar.stages.merge.stream import MergeOrder, write_merged

    def call() -> None:
        base, *students = (FolderSource(home / name) for name in ("base", "student_1", "student_2"))
        order = MergeOrder(build(MERGE_METHODS, method, METHODS[method][0]), tuple(students), base, None, 5 * 10**9)
        write_merged(order, home / "ours", home / "scratch")

    return call


def mergekit(method: str, home: Path) -> Callable[[], None]:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    _, shared, by_model = METHODS[method]
    models = [{"model": str(home / f"student_{index}"), "parameters": by_model} for index in (1, 2)]
    config: dict[str, Any] = {"merge_method": method, "models": models, "parameters": shared}
    if method not in WITHOUT_BASE:
        config["base_model"] = str(home / "base")
    if method == "slerp":
        config["base_model"] = str(home / "student_1")

    def call() -> None:
        options = MergeOptions(quiet=True, write_model_card=False)
        run_merge(MergeConfiguration.model_validate(config), str(home / "mergekit"), options)

    return call


RUNS = {"ours": ours, "mergekit": mergekit}

if __name__ == "__main__":
    recorded(main)
