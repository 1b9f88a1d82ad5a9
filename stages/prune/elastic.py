"""Take a sub-network out of an elastic encoder: the one that is named, or the best under a budget. It loads like any other encoder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from attar.compressors.distill.losses.embeddings import EmbeddingViews, SimilarityRows
from attar.compressors.elastic.search import Candidate, Costs, best, largest, meeting, spread
from attar.compressors.elastic.space import Space, Subnet
from attar.compressors.elastic.supernet import SlicedNet, Supernet
from attar.compressors.encode.encoder import EmbeddingRunner, SentenceEncoder, encoded, length_batches
from attar.compressors.models.slots import pad_right
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.fingerprint import RECORDS_FOLDER
from attar.registry.artifacts.handles import DatasetArtifact
from attar.registry.artifacts.subjects import ENCODER, form_of, subject_of
from attar.stages.artifacts.dataset.partition import choosing_part, shared_rows_note
from attar.stages.artifacts.dataset.rows import Row, read_rows, split_rows
from attar.stages.artifacts.encoder.elastic import check_space, space_of
from attar.stages.artifacts.encoder.proof import check_kept, probe_vectors, prove_encoder
from attar.stages.artifacts.encoder.texts import TextReader, texts_of
from attar.stages.artifacts.model.size_forecast import stored_bytes
from attar.stages.artifacts.text_models import TEXT_MODELS, kept_facts
from attar.stages.contract import Forecast
from attar.stages.prune.config import ElasticConfig, PruneInputs
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.progress import bar, metric, note

# File in a model's records with every candidate, what it costs and how far it is from the teacher.
SEARCH_RECORD = "search.json"
# Texts of one timed pass, and passes whose median counts.
TIMED_TEXTS, TIMED_PASSES = 32, 5


def forecast_elastic(config: ElasticConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    """Forecast the extraction. Raises ValueError for a model without sub-networks, and for inputs that it does not read, or lacks."""
    model = inputs["model"][0]
    if (subject := subject_of(model)) is not ENCODER and model:
        raise ValueError(
            f"elastic takes a sub-network of an encoder, and the model is {subject.words}; accepted: an encoder"
        )
    if bool(config.budget) != bool(inputs.get("data")):
        raise ValueError(
            "elastic.budget needs the input `data`, on which sub-networks are compared"
            if config.budget
            else "elastic.subnet names the sub-network and compares none; accepted: no input `data`"
        )
    for teacher in inputs.get("teacher", ()):
        if not config.budget:
            raise ValueError("elastic.subnet names the sub-network and compares none; accepted: no input `teacher`")
        if teacher and (kind := subject_of(teacher)) is not ENCODER:
            raise ValueError(f"the input `teacher` is {kind.words}, and the model an encoder; accepted: an encoder")
    if config.budget and "num_parameters" in model and space_of(model) is None:
        raise ValueError(
            "elastic.budget searches the sub-networks that a training taught, and the model's record names none; accepted: an encoder merged "
            "from a finetune with adapt.kind elastic, or elastic.subnet"
        )
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


def prune_elastic(config: ElasticConfig, inputs: PruneInputs, content: Path) -> Any:
    """Write a sub-network as a plain encoder. Raises ValueError where none meets the budget, or the model holds no such sizes.

    It must first give the vectors of the slices that it is made of, and give them again when it is loaded as written.
    """
    model, device, models = inputs.model, pick_device(), TEXT_MODELS[ENCODER]
    encoder = models.load(model.path, torch.float32, device)
    nets = SubEncoders(encoder, space_of(model.facts) or Space())
    try:
        subnet = _named(config, nets) if config.subnet is not None else _searched(config, inputs, nets, content)
    except ValueError as error:
        raise ValueError(f"elastic.{error}") from error
    expected = probe_vectors(nets.sliced(subnet), "prune")
    extracted = nets.extracted(subnet)
    check_kept(extracted, expected, "prune")
    share = nets.costs(subnet)["parameters"]
    note(f"extracted {subnet}: {share:.3f} of the parameters")
    metric("parameter_fraction", share)
    artifact = models.save(extracted, content, model.path)
    del encoder, nets, extracted
    prove_encoder(content, expected, "prune", device, models.load)
    return type(model).at(content, artifact.facts | kept_facts(model))


class SubEncoders:
    """The sub-networks of an encoder: each as slices of the whole, and as an encoder of its own."""

    def __init__(self, encoder: SentenceEncoder, space: Space) -> None:
        self.encoder, self._supernet = encoder, Supernet(encoder.model)
        self.whole = self._supernet.whole
        self.every = space.subnets(self.whole)

    def _wrap(self, model: Any) -> SentenceEncoder:
        return SentenceEncoder(model, self.encoder.pooling)

    def sliced(self, subnet: Subnet) -> SlicedNet:
        """Return a sub-network that computes with the whole's weights."""
        return SlicedNet(self._supernet, subnet, self._wrap)

    def extracted(self, subnet: Subnet) -> SentenceEncoder:
        """Return a sub-network as an encoder of its own."""
        return self._wrap(self._supernet.extracted(subnet)).eval()

    def costs(self, subnet: Subnet) -> dict[str, float]:
        """Return its parameters as a share of the whole's."""
        counts = [self._supernet.num_parameters(some) for some in (subnet, self.whole)]
        return {"parameters": counts[0] / counts[1]}


def _named(config: ElasticConfig, nets: SubEncoders) -> Subnet:
    """Return the sub-network of these sizes. Raises ValueError for sizes that the model does not hold."""
    assert config.subnet is not None, "asked before"
    sizes, whole = config.subnet.given, nets.whole
    for axis, size in sizes.items():
        if size > (most := getattr(whole, axis)):
            raise ValueError(f"subnet.{axis} is {size}, but the model has {most}; accepted: 1 to {most}")
    subnet = replace(whole, **sizes)
    if not subnet.fits(whole):
        raise ValueError(
            f"subnet.width is {subnet.width}, which {subnet.heads} heads do not divide into heads of at most {whole.head_width}; accepted: a "
            f"multiple of {subnet.heads}, at most {subnet.heads * whole.head_width}"
        )
    return subnet


def _searched(config: ElasticConfig, inputs: PruneInputs, nets: SubEncoders, content: Path) -> Subnet:
    """Return the best sub-network under the budget by how the texts' similarities differ from the teacher's, in nats a text."""
    assert inputs.data, "the forecast refuses a budget without data"
    texts = _texts(config, inputs.data)
    ids = TextReader.of(inputs.model, config.max_tokens)(texts)
    costs: dict[Subnet, Costs] = {subnet: nets.costs(subnet) for subnet in nets.every}
    if "ms" in config.budget:
        costs = _timed(config, nets, costs, ids)
    chosen = largest(meeting(costs, config.budget), costs, config.max_candidates)
    target = _target(config, inputs, nets, texts, ids)
    counter = bar("comparing sub-networks", len(chosen), "sub-networks")
    candidates = []
    for subnet in chosen:
        proxy = distance(encoded(nets.sliced(subnet), ids), target)  # type: ignore[arg-type] - it embeds as a runner does
        candidates.append(Candidate(subnet, costs[subnet], proxy))
        counter.advance()
    taken = best(candidates)
    _write(content, candidates, taken)
    metric("proxy_nats", taken.proxy_nats)
    for axis in Subnet.__dataclass_fields__:
        metric(f"subnet_{axis}", getattr(taken.subnet, axis))
    note(
        f"{len(meeting(costs, config.budget))} of {len(nets.every)} sub-networks are within the budget, {len(candidates)} compared on "
        f"{len(texts)} texts: {taken.proxy_nats:.4f} nats from the teacher, the last of them {max(some.proxy_nats for some in candidates):.4f}"
    )
    return taken.subnet


def distance(vectors: Tensor, target: Tensor) -> float:
    """Return the mean KL of each text's similarities to the others from the teacher's, in nats; widths may differ."""
    return float(SimilarityRows().terms(EmbeddingViews(vectors, target)).values.mean())


def _texts(config: ElasticConfig, data: Sequence[DatasetArtifact]) -> list[str]:
    """Return texts of the rows that choices are made on. Raises ValueError where there are fewer than two: they are compared with each other."""
    rows: list[Row] = []
    for number, dataset in enumerate(data, start=1):
        every = read_rows(dataset.path / "rows.jsonl")
        part = choosing_part(every)
        if part == "heldout":
            note(shared_rows_note(dataset.facts.name or f"data {number}", "choose a sub-network"))
        rows += split_rows(every, part)
    texts = texts_of(rows)[: config.num_samples]
    if len(texts) < 2:
        raise ValueError(
            f"budget compares sub-networks on texts that are held out, and the data has {len(texts)}; accepted: two or more, such as by "
            "heldout_fraction in ingest_data"
        )
    return texts


@torch.no_grad()
def _target(
    config: ElasticConfig, inputs: PruneInputs, nets: SubEncoders, texts: Sequence[str], ids: Sequence[Sequence[int]]
) -> Tensor:
    """Return the teacher's vectors of the texts; without a teacher the whole network's."""
    if inputs.teacher is None:
        return encoded(nets.encoder, ids)
    teacher = TEXT_MODELS[ENCODER].load(inputs.teacher.path, torch.float32, pick_device())
    return encoded(teacher, TextReader.of(inputs.teacher, config.max_tokens)(list(texts)))


def _timed(
    config: ElasticConfig, nets: SubEncoders, costs: Mapping[Subnet, Costs], ids: Sequence[Sequence[int]]
) -> dict[Subnet, Costs]:
    """Return the costs with milliseconds of a pass, as a share of the whole's, of as many sub-networks as are compared."""
    batch = length_batches(ids, TIMED_TEXTS * max(map(len, ids)))[0][:TIMED_TEXTS]
    inputs = pad_right([ids[index] for index in batch], nets.encoder.device)
    whole = _seconds(nets.encoder, inputs)
    chosen = spread(list(costs), costs, config.max_candidates)
    counter = bar("timing sub-networks", len(chosen), "sub-networks")
    timed: dict[Subnet, Costs] = {}
    for subnet in chosen:
        timed[subnet] = {**costs[subnet], "ms": _seconds(nets.extracted(subnet), inputs) / whole}
        counter.advance()
    note(f"a pass of {len(batch)} texts takes the whole network {1e3 * whole:.1f} ms")
    return timed


def _seconds(runner: EmbeddingRunner, inputs: tuple[Tensor, Tensor]) -> float:
    runner.embed(*inputs)  # the first pass sets up
    times = []
    for _ in range(TIMED_PASSES):
        start = time.perf_counter()
        runner.embed(*inputs).cpu()
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
