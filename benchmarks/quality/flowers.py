"""EfficientNet-lite0 at half of its parameters, taught by its whole self: accuracy with intervals, retention, milliseconds beside torch.

python benchmarks/quality/flowers.py HOME TRAIN.parquet TEST.parquet [--epochs=3,6] [--size=224] [--cuts=ranked,even]

The nodes of `examples/flowers.yaml` one after the other in this process, the release left out, and beside them other cuts of equal size. Retention is
in pairs, photograph by photograph. Times are medians of rounds in turns: its graph in 8 bits beside torch eager of the whole net and of the student.
`--size`: the side of the crop that the nets read, where 224 takes too long. HOME keeps what was made.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from attar.registry.artifacts.environment import configure_process
from attar.registry.release.figures import HIGH, LOW
from attar.stages.artifacts.images.pixels import PROCESSOR
from attar.stages.evaluate.paired_evaluations import evaluation_of, paired_ratios

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from bench import Bench
from result_file import RESULTS, recorded

RECIPE = Path(__file__).parents[2] / "examples" / "flowers.yaml"
NATIVE_SIZE, NATIVE_EDGE = 224, 256
# Nodes that are made anew for each cut.
OF_A_CUT = ("thinner", "student", "healed", "thinner_scores", "healed_scores")


class Flowers:
    """The recipe's nodes, run by name on a bench."""

    def __init__(self, bench: Bench, options: dict[str, str], train: str, test: str) -> None:
        self.bench, self.size = bench, int(options.get("size", NATIVE_SIZE))
        self.nodes: dict[str, Any] = yaml.safe_load(RECIPE.read_text())["nodes"]
        for name, path in (("photos", train), ("tests", test)):
            self.nodes[name]["config"]["source"] = f"parquet:{path}"
        for name, count in zip(("first_lesson", "student"), options.get("epochs", "3,6").split(","), strict=True):
            self.nodes[name]["config"]["schedule"]["num_epochs"] = int(count)
        self.made: dict[str, Any] = {}

    def run(self, name: str, config: dict[str, Any] | None = None) -> Any:
        """Return a node's artifact, made with the nodes that it reads before it."""
        if name not in self.made:
            node = self.nodes[name]
            inputs = {slot: self._input(node["stage"], slot, given) for slot, given in node.get("inputs", {}).items()}
            self.made[name] = self.bench.run(node["stage"], {**node["config"], **(config or {})}, **inputs)
            if name == "pretrained" and self.size != NATIVE_SIZE:
                self.made[name] = self._resized(self.made[name])
        return self.made[name]

    def beside(self, name: str, other: str) -> Any:
        """Return an evaluation of a node's model in turns with another's."""
        inputs = {"model": self.run(name), "tasks": (self.run("tests"),), "beside": self.run(other)}
        return self.bench.run("evaluate", {"precision": "float32"}, **inputs)

    def _input(self, stage: str, slot: str, given: str) -> Any:
        artifact = self.run(given)
        is_many = (stage, slot) in (
            ("finetune", "data"),
            ("narrow", "data"),
            ("evaluate", "tasks"),
            ("merge", "students"),
        )
        return (artifact,) if is_many else artifact

    def _resized(self, model: Any) -> Any:
        """Return the same net with a smaller crop, the edge before it in proportion."""
        folder = self.bench.home / f"lite0-{self.size}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(model.path, folder, ignore=shutil.ignore_patterns("records"))
        reading = json.loads((folder / PROCESSOR).read_text())
        reading["size"] = {"shortest_edge": round(self.size * NATIVE_EDGE / NATIVE_SIZE)}
        reading["crop_size"] = {"height": self.size, "width": self.size}
        (folder / PROCESSOR).write_text(json.dumps(reading))
        config = {"source": f"folder:{folder}", "model": {"kind": "image_classifier"}, "license": "apache-2.0"}
        return self.bench.run("ingest_model", config)


def row(name: str, model: Any, scores: Any, original: Any, whole: Any) -> str:
    """Return a model's line: size, accuracy and its share of the original's, paired."""
    facts, now, base = scores.facts, evaluation_of(scores), evaluation_of(original)
    accuracy = f"{facts['accuracy']:.3f} [{facts['accuracy' + LOW]:.3f}, {facts['accuracy' + HIGH]:.3f}]"
    ratio = paired_ratios(now, base)["accuracy"]
    share = model.facts.num_parameters / whole.facts.num_parameters
    megaflops = 1e-6 * float(facts["flops_per_image"])
    return (
        f"| {name} | {model.facts.num_parameters:,} | {share:.3f} | {megaflops:.0f} | {accuracy} | "
        f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] |"
    )


def quality(flowers: Flowers, cuts: list[str]) -> None:
    whole, original = flowers.run("original"), flowers.run("original_scores")
    lines = [row("original", whole, original, original, whole)]
    for cut in reversed(cuts):  # the first is the one that becomes a graph
        for name in OF_A_CUT:
            flowers.made.pop(name, None)
        flowers.run("thinner", {"spread": cut})
        print(f"{cut}: {flowers.run('thinner').facts.widths}", flush=True)
        for title, model, scores in (("cut", "thinner", "thinner_scores"), ("taught", "healed", "healed_scores")):
            lines.append(row(f"{cut}, {title}", flowers.run(model), flowers.run(scores), original, whole))
    graph, scores = flowers.run("small"), flowers.run("small_scores")
    lines.append(row(f"{cuts[0]}, taught, 8 bits", graph, scores, original, whole))
    num_rows = flowers.run("tests").facts.num_rows
    print(f"accuracy on {num_rows} photographs at {flowers.size} x {flowers.size}, share of the original's in pairs")
    print("| model | parameters | share | MFLOPs an image | accuracy | retention |\n|---|---|---|---|---|---|")
    print("\n".join(lines), flush=True)


def speed(flowers: Flowers) -> None:
    print("the graph in 8 bits beside torch eager, in turns")
    print(
        "| beside | ms an image, graph | torch | times as fast | ms 32 images, graph | torch | times as fast |\n|---|---|---|---|---|---|---|"
    )
    for title, other in (("original", "original"), ("student", "healed")):
        latency = evaluation_of(flowers.beside("small", other))["latency"]
        cells = []
        for name in ("image_seconds", "image_seconds_32"):
            own, torch = latency[name], latency["beside"][name]
            cells += [f"{1e3 * own:.1f}", f"{1e3 * torch:.1f}", f"{torch / own:.2f}"]
        print(f"| {title}, torch eager | {' | '.join(cells)} |", flush=True)


def main() -> None:
    options = dict(word[2:].split("=") for word in sys.argv[1:] if word.startswith("--"))
    home, train, test = (word for word in sys.argv[1:] if not word.startswith("--"))
    configure_process()
    flowers = Flowers(Bench(Path(home)), options, train, test)
    quality(flowers, options.get("cuts", "ranked").split(","))
    speed(flowers)


if __name__ == "__main__":
    recorded(main, folder=RESULTS / "images")
