"""One-step students of a denoiser by each loss, at equal training compute, beside the teacher's 25 steps. Frechet distance, recall, forwards.

python benchmarks/quality/denoisers.py HOME IMAGES.npz [--seeds 0,1,2] [--teacher-steps 1500] [--budget 6000] [--arms bare,...] [--max-rows 0]

IMAGES: `images` and `labels`, 28 x 28, averaged down to 14 x 14; 15% are held out, which distances are to. A budget is in forwards of the net an
image of a step: a training pass counts three, a pass without gradient one. HOME keeps what was made: an interrupted sitting goes on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attar.registry.artifacts.environment import configure_process
from attar.registry.artifacts.store import Store
from attar.registry.release.figures import HIGH, LOW
from attar.stages.catalogue import STAGES
from attar.stages.compare.sample.stage import sample_headline
from attar.stages.evaluate.images.drawn import NO_BOUND, drawn_ratios
from attar.stages.evaluate.paired_evaluations import evaluation_of
from attar.stages.runtime.progress import hearing, listen

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

SOURCE = "random:unet?sample_size=14&num_classes=10&width=16"
BATCH_SIZE, TEACHER_STEPS = 64, 25
# Of a training pass, forward and backward, in forwards.
PASS = 3
CONSISTENCY = {
    "divergence": {"segment_consistency": {"num_segments": 8, "num_points": 40}},
    "schedule": {"staircase": {"parameter": "num_segments", "values": [8, 4, 2, 1]}},
}
COLUMNS = (
    "student",
    "training forwards",
    "forwards an image",
    "Frechet distance",
    "of the teacher's",
    "recall",
    "right class %",
)


@dataclass(frozen=True)
class Lesson:
    """One training: objectives, what a step of it costs an image in forwards, and its share of the budget."""

    objectives: dict[str, Any]
    cost: int
    share: float = 1.0
    config: dict[str, Any] = field(default_factory=dict)
    # whether the model that it begins with is the teacher too
    by_itself: bool = False
    learning_rate: float = 1e-3


SEGMENTS = Lesson({"consistency": CONSISTENCY}, PASS + 2, config={"past": {"kind": "live"}})
# the student of four segments is a teacher of four forwards
ENDPOINTS = Lesson(
    {"endpoint_distance": {"divergence": {"endpoint_distance": {"num_steps": 4}}}}, PASS + 4, by_itself=True
)
# the teacher's whole path at every step
WHOLE_PATHS = Lesson({"endpoint_distance": {"divergence": {"endpoint_distance": {"num_steps": 25}}}}, PASS + 25)
SCORES = Lesson({"score_distillation": 1.0, "fake_score": 1.0}, 2 * PASS + 2, learning_rate=3e-4)
SCORES_AND_ENDS = Lesson(
    {"score_distillation": 0.1, "fake_score": 1.0, **ENDPOINTS.objectives}, 2 * PASS + 2 + 4, 0.5, by_itself=True
)
# What each student goes through; `random-teacher` behind a teacher that was never trained.
ARMS: dict[str, tuple[Lesson, ...]] = {
    "bare": (),
    "segments": (SEGMENTS,),
    "endpoints": (WHOLE_PATHS,),
    "segments-endpoints": (
        Lesson(SEGMENTS.objectives, SEGMENTS.cost, 0.3, SEGMENTS.config),
        Lesson(ENDPOINTS.objectives, ENDPOINTS.cost, 0.7, by_itself=True),
    ),
    "scores": (SCORES,),
    "segments-scores-endpoints": (Lesson(SEGMENTS.objectives, SEGMENTS.cost, 0.5, SEGMENTS.config), SCORES_AND_ENDS),
    "random-teacher": (WHOLE_PATHS,),
}


class Bench:
    """Runs stages in this process on one store, without Prefect, for one seed."""

    def __init__(self, arguments: argparse.Namespace, seed: int) -> None:
        self.store, self.seed = Store(arguments.home), seed
        images = {"source": f"npz:{arguments.images}", "heldout_fraction": 0.15, "choose_fraction": 0.01}
        self.data = self.made("ingest_images", {**images, "max_rows": arguments.max_rows})
        self.start = self.made("ingest_model", {"source": f"{SOURCE}&seed={seed}", "model": {"kind": "denoiser"}})
        denoising = {"denoising": {"divergence": {"denoising": {"drop_fraction": 0.1}}}}
        lesson = Lesson(denoising, PASS, learning_rate=2e-3)
        self.teacher = self.taught(self.start, None, lesson, arguments.teacher_steps)

    def made(self, stage: str, config: dict[str, Any], **inputs: Any) -> Any:
        """Return what a stage makes of a config and inputs, from the store where it was made before."""
        kind = STAGES[stage]
        with listen(hearing(note=lambda note: print(f"  {stage}: {note.text}", file=sys.stderr, flush=True))):
            return kind.execute(kind.config_type.model_validate(config), kind.input_type(**inputs), self.store).artifact

    def taught(self, model: Any, teacher: Any, lesson: Lesson, num_steps: int) -> Any:
        """Return a model behind one training."""
        schedule = {"num_epochs": 1000, "max_steps": num_steps, "tokens_per_step": BATCH_SIZE, "average_decay": 0.99}
        config = {
            "adapt": {"kind": "full"},
            "objectives": lesson.objectives,
            "schedule": {**schedule, "learning_rate": lesson.learning_rate, "seed": self.seed},
            "heldout": {"every": num_steps, "patience": 0},
            "compute": {"precision": "float32"},
            **lesson.config,
        }
        trained = self.made("finetune", config, model=model, data=(self.data,), teacher=teacher)
        return self.made("merge", {"method": "fold"}, base=model, students=(trained,))

    def student(self, arm: str, budget: int) -> Any:
        """Return the student of an arm, which began as the teacher."""
        model, teacher = self.teacher, self.start if arm == "random-teacher" else self.teacher
        for lesson in ARMS[arm]:
            behind = model if lesson.by_itself else teacher
            model = self.taught(model, behind, lesson, max(1, round(lesson.share * budget / lesson.cost)))
        return model

    def evaluated(self, model: Any, num_steps: int) -> dict[str, Any]:
        """Return the evaluation of images of a model."""
        config = {"num_steps": num_steps, "num_images": 1000, "seeds": [self.seed], "classifier": {"num_draws": 20}}
        return evaluation_of(self.made("sample", config, model=model, data=self.data))


def main() -> None:
    arguments = read_arguments()
    configure_process()
    figures: dict[str, list[dict[str, float]]] = {}
    for seed in arguments.seeds:
        bench = Bench(arguments, seed)
        baseline = bench.evaluated(bench.teacher, TEACHER_STEPS)
        print(f"One-step students of a denoiser, seed {seed}, {arguments.teacher_steps} steps of the teacher")
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
        figures.setdefault("teacher", []).append(row("teacher", 0, baseline, baseline))
        for arm in arguments.arms:
            own = bench.evaluated(bench.student(arm, arguments.budget), 1)
            figures.setdefault(arm, []).append(row(arm, arguments.budget * bool(ARMS[arm]), own, baseline))
        floor = (
            f"{baseline['floor']:.3f}; the classifier is right on {baseline['classifier_accuracy']:.1%} of real ones"
        )
        print(f"Real images from held-out ones: {floor}")
    if len(arguments.seeds) > 1:
        _together(figures, len(arguments.seeds))


def read_arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0])
    parser.add_argument("--teacher-steps", type=int, default=1500)
    parser.add_argument("--budget", type=int, default=6000)
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(ARMS))
    parser.add_argument("--max-rows", type=int, default=0)
    arguments = parser.parse_args()
    if unknown := [arm for arm in arguments.arms if arm not in ARMS]:
        parser.error(f"--arms: {unknown[0]}; accepted: {', '.join(ARMS)}")
    return arguments


def row(name: str, cost: int, own: dict[str, Any], baseline: dict[str, Any]) -> dict[str, float]:
    """Print a student's figures with their intervals, and return those that are averaged over seeds."""
    numbers, ratio = sample_headline(own), drawn_ratios(own, baseline)["frechet_distance"]
    high = f"{ratio.high:.2f}" if ratio.high is not None and ratio.high < NO_BOUND else "-"
    cells = (
        name,
        f"{cost:,}" if cost else "-",
        f"{own['num_forwards']}",
        interval(numbers, "frechet_distance", 3),
        f"{ratio.value:.2f} [{ratio.low:.2f}, {high}]" if own is not baseline else "1",
        interval(numbers, "recall", 3),
        f"{100 * numbers['class_accuracy']:.1f}",
    )
    print(f"| {' | '.join(cells)} |", flush=True)
    return {"frechet_distance": numbers["frechet_distance"], "ratio": ratio.value, "recall": numbers["recall"]}


def interval(numbers: dict[str, float], name: str, digits: int) -> str:
    """Return a figure with the ends of its 95% interval."""
    return f"{numbers[name]:.{digits}f} [{numbers[name + LOW]:.{digits}f}, {numbers[name + HIGH]:.{digits}f}]"


def _together(figures: dict[str, list[dict[str, float]]], num_seeds: int) -> None:
    print(f"Means over {num_seeds} seeds, with the standard deviation between them")
    columns = ("student", "Frechet distance", "of the teacher's", "recall")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, some in figures.items():
        values = [[each[measure] for each in some] for measure in ("frechet_distance", "ratio", "recall")]
        cells = [f"{statistics.fmean(value):.3f} (sd {statistics.stdev(value):.3f})" for value in values]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    recorded(main)
