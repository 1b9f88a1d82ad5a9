"""What methods with heads beside an image classifier, and a teacher without labels, give: arms by the same images, steps and start.

python benchmarks/quality/image_methods.py HOME IMAGES.npz [--seeds=0,1,2] [--parts=few,tail,pool] [--epochs=30] [--few=500] [--heldout=1500]

IMAGES: uint8 images and labels. Few: a few hundred training images, by which SLA and LSSKD are measured beside labels alone and beside the same
turned views without their label. Tail: the last class keeps a hundredth of its training images; MDCS beside labels alone. Pool: a small net learns
a larger one's distributions on few images with and without a pool of images without labels; labels alone and a random teacher are the controls.
Accuracy is on images that no training and no choice has seen. Every arm is kept at the state that its own loss on the images for choices liked best.
Seeds draw the start, the heads and the order of images. HOME keeps what was made.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from attar.registry.artifacts.environment import configure_process
from attar.registry.release.figures import HIGH, LOW

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from bench import Bench
from result_file import recorded

SIDE = 28
PLAIN: list[Any] = [{"shift": {"fraction": 0.08}}]
WIDE, NARROW = (4, 24), (2, 12)  # blocks, channels
JS = {"label_free": {"divergence": "jensen_shannon"}}


def own(loss: str, **parameters: Any) -> dict[str, Any]:
    """Return an objective of a loss with heads."""
    return {loss: {"divergence": {loss: parameters}}}


RAMP = {"linear_ramp": {"parameter": "consistency", "end": 0.6, "until_fraction": 0.05}}
# Arm: objectives, augmentations.
FEW: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "labels alone": ({"labels": 1.0}, PLAIN),
    "turned views, no label of the turn": ({"labels": 1.0}, [*PLAIN, "turn"]),
    "SLA without the ensemble": ({"labels": 1.0, **own("label_augmentation", distilled=0.0)}, PLAIN),
    "SLA": ({"labels": 1.0, **own("label_augmentation")}, PLAIN),
    "LSSKD without agreement": ({"labels": 1.0, **own("stage_heads", agreement=0.0)}, PLAIN),
    "LSSKD": ({"labels": 1.0, **own("stage_heads")}, PLAIN),
}
TAIL: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "labels alone": ({"labels": 1.0}, PLAIN),
    "experts without consistency": (own("diverse_experts", consistency=0.0), PLAIN),
    "MDCS, every image counts": (
        {"mdcs": {"divergence": {"diverse_experts": {"is_masked": False}}, "schedule": RAMP}},
        PLAIN,
    ),
    "MDCS": ({"mdcs": {"divergence": "diverse_experts", "schedule": RAMP}}, PLAIN),
}


class Images:
    """Trainings of small residual nets on parts of one file of images."""

    def __init__(self, bench: Bench, options: Mapping[str, str], path: Path) -> None:
        self.bench, self.path = bench, path
        self.num_epochs = int(options.get("epochs", 30))
        self.num_few, self.num_heldout = int(options.get("few", 500)), int(options.get("heldout", 1500))

    def data(self, num_rows: int, **config: Any) -> Any:
        """Return the first images of the file."""
        return self.bench.run("ingest_images", {"source": f"npz:{self.path}", "max_rows": num_rows, **config})

    def few(self, num_few: int, **config: Any) -> Any:
        """Return so many training images, with a fifth as many for choices, and those that are reported."""
        count = self.num_heldout + num_few + num_few // 5
        fractions = {"heldout_fraction": self.num_heldout / count, "choose_fraction": num_few / 5 / count}
        return self.data(count, **fractions, **config)

    def net(self, size: tuple[int, int], seed: int) -> Any:
        """Return an untrained net."""
        num_blocks, width = size
        form = f"num_blocks={num_blocks}&hidden_size={width}&image_size={SIDE}&num_channels=1&num_classes=10"
        model = {"source": f"random:resnet?{form}&seed={seed}", "model": {"kind": "image_classifier"}}
        return self.bench.run("ingest_model", model)

    def taught(
        self,
        net: Any,
        data: Sequence[Any],
        objectives: Any,
        augment: Any,
        seed: int,
        taught_by: Any = None,
        **more: Any,
    ) -> Any:
        """Return a net with what it has learned."""
        # as many steps for every arm, whatever its images are
        num_steps = self.num_epochs * self.num_few // 64
        config = {
            "adapt": {"kind": "full"},
            "objectives": objectives,
            "rows": {"augment": augment},
            "schedule": {"num_epochs": 1000, "max_steps": num_steps, "tokens_per_step": 64, "learning_rate": 3e-3, "seed": seed},
            "heldout": {"every": max(1, num_steps // 10), "patience": 0},
            "compute": {"tokens_per_micro_batch": 64},
            **more,
        }  # fmt: skip
        weights = self.bench.run("finetune", config, model=net, data=tuple(data), teacher=taught_by)
        return self.bench.run("merge", {}, base=net, students=(weights,))

    def scores(self, model: Any, data: Any) -> Any:
        """Return an evaluation's facts."""
        return self.bench.run("evaluate", {"precision": "float32"}, model=model, tasks=(data,)).facts


def arms_on(images: Images, data: Any, arms: Mapping[str, tuple[Any, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """Return the evaluations of each arm, one a seed."""
    return {
        name: [
            images.scores(images.taught(images.net(WIDE, seed), [data], objectives, augment, seed), data)
            for seed in seeds
        ]
        for name, (objectives, augment) in arms.items()
    }


def few_part(images: Images, seeds: Sequence[int]) -> None:
    print_table(f"{images.num_few} training images", arms_on(images, images.few(images.num_few), FEW, seeds))


def tail_part(images: Images, seeds: Sequence[int]) -> None:
    data = images.few(4 * images.num_few, tail_fraction=0.01)
    num_left = data.facts.num_rows - data.facts.num_heldout - data.facts.num_choose
    print_table(f"long tail, {num_left} training images", arms_on(images, data, TAIL, seeds), "tail_accuracy")


def pool_part(images: Images, seeds: Sequence[int]) -> None:
    data = images.few(images.num_few)
    pool = images.data(10 * images.num_few, name="pool", columns={"label": ""}, heldout_fraction=0.0)
    measured: dict[str, list[Any]] = {}
    for seed in seeds:
        teacher = images.taught(images.net(WIDE, 100 + seed), [data], {"labels": 1.0}, PLAIN, seed)
        chosen = {"num_per_class": images.num_few // 2, "max_distance": 0}
        selected = images.bench.run("select_images", chosen, data=pool, teacher=teacher, protected=(data,))
        arms: dict[str, tuple[Any, list[Any], Any, dict[str, Any]]] = {
            "labels alone": ({"labels": 1.0}, [data], None, {}),
            "random teacher, with the pool": (
                JS,
                [data, selected],
                None,
                {"teacher": {"kind": "random", "seed": seed}},
            ),
            "teacher's distributions": (JS, [data], teacher, {}),
            "SSLD: with the pool": (JS, [data, selected], teacher, {}),
        }
        measured.setdefault("teacher, 4 blocks", []).append(images.scores(teacher, data))
        for name, (objectives, learned, by, more) in arms.items():
            made = images.taught(images.net(NARROW, seed), learned, objectives, PLAIN, seed, by, **more)
            measured.setdefault(name, []).append(images.scores(made, data))
    print_table(f"a student of 2 blocks, {images.num_few} images with labels", measured)


PARTS = {"few": few_part, "tail": tail_part, "pool": pool_part}


def print_table(title: str, measured: Mapping[str, Sequence[Any]], *more: str) -> None:
    """Print accuracies and other figures: mean over seeds, spread, and each seed's with its interval."""
    print(title)
    columns = [
        "arm",
        "accuracy",
        "spread",
        *(f"{name.replace('_', ' ')}" for name in more),
        "each seed with its interval",
    ]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, evaluations in measured.items():
        values = [some["accuracy"] for some in evaluations]
        each = ", ".join(
            f"{some['accuracy']:.3f} [{some['accuracy' + LOW]:.3f}, {some['accuracy' + HIGH]:.3f}]"
            for some in evaluations
        )
        others = [f"{mean(some[figure] for some in evaluations):.3f}" for figure in more]
        cells = [name, f"{mean(values):.3f}", f"{stdev(values):.3f}" if len(values) > 1 else "", *others, each]
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    options = dict(word[2:].split("=") for word in sys.argv[1:] if word.startswith("--"))
    home, path = (word for word in sys.argv[1:] if not word.startswith("--"))
    seeds = [int(seed) for seed in options.get("seeds", "0,1,2").split(",")]
    configure_process()
    images = Images(Bench(Path(home)), options, Path(path))
    for part in options.get("parts", ",".join(PARTS)).split(","):
        PARTS[part](images, seeds)


if __name__ == "__main__":
    recorded(main)
