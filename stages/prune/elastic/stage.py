"""Take a sub-network out of an elastic model: the one that is named, or the best under a budget. It loads like any other of its family."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from attar.compressors.elastic.search import Candidate, Costs, best, largest, meeting, spread
from attar.compressors.elastic.space import Space, Subnet
from attar.compressors.elastic.supernet import SlicedNet, Supernet
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.fingerprint import RECORDS_FOLDER
from attar.registry.artifacts.handles import AnyData, AnyModel
from attar.registry.artifacts.subjects import form_of, subject_of
from attar.stages.artifacts.encoder.elastic import check_space, space_of
from attar.stages.artifacts.images.fit import refuse_other_data
from attar.stages.artifacts.mixed_subjects import check_same_classes
from attar.stages.artifacts.model.size_forecast import stored_bytes
from attar.stages.artifacts.text_models import kept_facts
from attar.stages.contract import Forecast
from attar.stages.prune.elastic.config import ElasticConfig, SubnetSizes
from attar.stages.prune.elastic.kinds import KINDS, ElasticKind
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.progress import metric, note, track

# File in a model's records with every candidate, what it costs and how far it is from the teacher.
SEARCH_RECORD = "search.json"
# Examples of one timed pass, and passes whose median counts.
TIMED_EXAMPLES, TIMED_PASSES = 32, 5
ACCEPTED = " or ".join(subject.words for subject in KINDS)


def forecast_elastic(config: ElasticConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    """Forecast the extraction. Raises ValueError for a model without sub-networks, and for inputs that it does not read, or lacks."""
    model = inputs["model"][0]
    if (subject := subject_of(model)) not in KINDS and model:
        raise ValueError(f"elastic takes a sub-network, and the model is {subject.words}; accepted: {ACCEPTED}")
    if bool(config.budget) != bool(inputs.get("data")):
        raise ValueError(
            "elastic.budget needs the input `data`, on which sub-networks are compared"
            if config.budget
            else "elastic.subnet names the sub-network and compares none; accepted: no input `data`"
        )
    for teacher in inputs.get("teacher", ()):
        if not config.budget:
            raise ValueError("elastic.subnet names the sub-network and compares none; accepted: no input `teacher`")
        if teacher and model and (kind := subject_of(teacher)) is not subject:
            raise ValueError(
                f"the input `teacher` is {kind.words}, and the model {subject.words}; accepted: another of those"
            )
    check_same_classes(model, [teacher for teacher in inputs.get("teacher", ()) if teacher])
    refuse_other_data(model, inputs.get("data", ()))
    if config.budget and "num_parameters" in model:
        _taught(model)
    facts: dict[str, Any] = {name: model[name] for name in ("vocab_size",) if name in model} | form_of(model)
    if config.subnet is not None:
        sizes = config.subnet.given
        check_space(Space(**{axis: (size,) for axis, size in sizes.items()}), model, "elastic.subnet")
        known = {"num_blocks": sizes.get("blocks"), "hidden_size": sizes.get("width")}
        facts |= {name: size or model[name] for name, size in known.items() if size or name in model}
    num_bytes = 4.0 * float(model.get("num_parameters", 0))
    if "parameters" in config.budget and num_bytes:
        facts["num_parameters"] = int(config.budget["parameters"] * float(model["num_parameters"]))
    num_tokens = config.num_samples * config.max_tokens * (config.max_candidates if config.budget else 0)
    return Forecast(
        facts,
        num_flops=0.5 * num_bytes * num_tokens,
        peak_memory_bytes=3.0 * num_bytes,
        disk_bytes=stored_bytes(facts) or num_bytes,
    )


def _taught(model: Facts) -> Space:
    """Return the sizes that a training taught. Raises ValueError for a model of which the record names none."""
    space = space_of(model)
    if space is None:
        raise ValueError(
            "elastic.budget searches the sub-networks that a training taught, and the model's record names none; accepted: one merged "
            "from a finetune with adapt.kind elastic, or elastic.subnet"
        )
    return space


def prune_elastic(
    config: ElasticConfig, model: Any, data: Sequence[AnyData], teacher: AnyModel | None, content: Path
) -> Any:
    """Write a sub-network as a plain model. Raises ValueError where none meets the budget, or the model holds no such sizes.

    It must first give the numbers of the slices that it is made of, and give them again when it is loaded as written.
    """
    device, kind = pick_device(), KINDS[model.subject]
    space = _taught(model.facts) if config.budget else Space()
    nets = SubNets(kind, kind.load(model.path, device), space)
    search = Search(config, kind, nets, model, data, teacher)
    subnet = search.run(content) if config.subnet is None else _named(config.subnet, nets)
    expected = kind.probe(nets.sliced(subnet), model)
    extracted = nets.extracted(subnet)
    kind.check(extracted, expected, model)
    share = nets.costs(subnet)["parameters"]
    note(f"extracted {subnet}: {share:.3f} of the parameters")
    metric("parameter_fraction", share)
    artifact = kind.save(extracted, content, model.path)
    del nets, extracted
    kind.prove(content, expected, model, device)
    return type(model).at(content, artifact.facts | kept_facts(model) | {"subnet": str(subnet)})


class SubNets:
    """The sub-networks of a model: each as slices of the whole, and as a model of its own."""

    def __init__(self, kind: ElasticKind, whole: Any, space: Space) -> None:
        self.of_whole, self._kind, self._supernet = whole, kind, Supernet(whole.model)
        self.whole = self._supernet.whole
        self.every = space.subnets(self.whole)

    def _wrap(self, model: Any) -> Any:
        return self._kind.wrap(model, self.of_whole)

    def sliced(self, subnet: Subnet) -> SlicedNet:
        """Return a sub-network that computes with the whole's weights."""
        return SlicedNet(self._supernet, subnet, self._wrap)

    def extracted(self, subnet: Subnet) -> Any:
        """Return a sub-network as a model of its own."""
        return self._wrap(self._supernet.extracted(subnet)).eval()

    def costs(self, subnet: Subnet) -> dict[str, float]:
        """Return its parameters as a share of the whole's."""
        counts = [self._supernet.num_parameters(some) for some in (subnet, self.whole)]
        return {"parameters": counts[0] / counts[1]}


def _named(given: SubnetSizes, nets: SubNets) -> Subnet:
    """Return the sub-network of these sizes. Raises ValueError for sizes that the model does not hold."""
    sizes, whole = given.given, nets.whole
    for axis, size in sizes.items():
        if size > (most := getattr(whole, axis)):
            raise ValueError(f"elastic.subnet.{axis} is {size}, but the model has {most}; accepted: 1 to {most}")
    subnet = replace(whole, **sizes)
    if not subnet.fits(whole):
        raise ValueError(
            f"elastic.subnet.width is {subnet.width}, which {subnet.heads} heads do not divide into heads of at most {whole.head_width}; accepted: a "
            f"multiple of {subnet.heads}, at most {subnet.heads * whole.head_width}"
        )
    return subnet


@dataclass(frozen=True)
class Search:
    """A search for the sub-network within a budget whose outputs differ least from the teacher's, in nats an example."""

    config: ElasticConfig
    kind: ElasticKind
    nets: SubNets
    model: AnyModel
    data: Sequence[AnyData]
    teacher: AnyModel | None

    def run(self, content: Path) -> Subnet:
        """Return what is taken. Raises ValueError where nothing is within the budget, and for data without rows to compare on."""
        examples = self._examples(self.model)
        if len(examples) < 2:
            raise ValueError(
                f"elastic.budget compares sub-networks on rows that are held out, and the data has {len(examples)}; accepted: two or more, such as "
                "by heldout_fraction where it is ingested"
            )
        costs: dict[Subnet, Costs] = {subnet: self.nets.costs(subnet) for subnet in self.nets.every}
        if "ms" in self.config.budget:
            costs = self._timed(costs, examples[:TIMED_EXAMPLES])
        try:
            within = meeting(costs, {str(name): limit for name, limit in self.config.budget.items()})
        except ValueError as error:
            raise ValueError(f"elastic.{error}") from error
        target = self._target(examples)
        chosen = largest(within, costs, self.config.max_candidates)
        candidates = [
            Candidate(subnet, costs[subnet], self._distance(subnet, examples, target))
            for subnet in track(chosen, "comparing sub-networks", "sub-networks")
        ]
        taken = best(candidates)
        _write(content, candidates, taken)
        metric("proxy_nats", taken.proxy_nats)
        for axis in Subnet.__dataclass_fields__:
            metric(f"subnet_{axis}", getattr(taken.subnet, axis))
        note(
            f"{len(within)} of {len(costs)} sub-networks are within the budget, {len(candidates)} compared on {len(examples)} examples: "
            f"{taken.proxy_nats:.4f} nats from the teacher, the last of them {max(some.proxy_nats for some in candidates):.4f}"
        )
        return taken.subnet

    def _examples(self, reader: AnyModel) -> list[Any]:
        return self.kind.read(reader, self.data, self.config.num_samples, self.config.max_tokens)

    def _target(self, examples: Sequence[Any]) -> Tensor:
        """Return the teacher's outputs, of examples as it reads them itself; without a teacher the whole network's."""
        if self.teacher is None:
            return self.kind.outputs(self.nets.of_whole, examples)
        return self.kind.outputs(self.kind.load(self.teacher.path, pick_device()), self._examples(self.teacher))

    def _distance(self, subnet: Subnet, examples: Sequence[Any], target: Tensor) -> float:
        return self.kind.distance(self.kind.outputs(self.nets.sliced(subnet), examples), target)

    def _timed(self, costs: Mapping[Subnet, Costs], examples: Sequence[Any]) -> dict[Subnet, Costs]:
        """Return costs with milliseconds of a pass, as a share of the whole's, of as many sub-networks as are compared."""
        whole = self._seconds(self.nets.of_whole, examples)
        chosen = spread(list(costs), costs, self.config.max_candidates)
        timed: dict[Subnet, Costs] = {}
        for subnet in track(chosen, "timing sub-networks", "sub-networks"):
            seconds = whole if subnet == self.nets.whole else self._seconds(self.nets.extracted(subnet), examples)
            timed[subnet] = {**costs[subnet], "ms": seconds / whole}
        note(f"{len(examples)} examples take the whole network {1e3 * whole:.1f} ms")
        return timed

    def _seconds(self, runner: Any, examples: Sequence[Any]) -> float:
        self.kind.outputs(runner, examples)  # the first pass sets up
        times = []
        for _ in range(TIMED_PASSES):
            start = time.perf_counter()
            self.kind.outputs(runner, examples)
            times.append(time.perf_counter() - start)
        return median(times)


def _write(content: Path, candidates: Sequence[Candidate], taken: Candidate) -> None:
    """Write every candidate with its costs and its distance, the nearest first."""
    entries = [
        {"subnet": vars(some.subnet), **some.costs, "proxy_nats": some.proxy_nats}
        for some in sorted(candidates, key=lambda some: some.proxy_nats)
    ]
    (content / RECORDS_FOLDER).mkdir(parents=True, exist_ok=True)
    record = {"taken": vars(taken.subnet), "candidates": entries}
    (content / RECORDS_FOLDER / SEARCH_RECORD).write_text(json.dumps(record, indent=1))
