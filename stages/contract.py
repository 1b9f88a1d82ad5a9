"""What a stage is. A typed function from a frozen config and input artifacts to one artifact, run through the store."""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BeforeValidator

from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.fingerprint import RECORDS_FOLDER, digest
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.kinds.shard_facts import Shard, ShardArtifact, check_complete
from attar.registry.artifacts.store import CONTENT, Outcome, Slot, Store
from attar.registry.artifacts.subjects import refuse_mask_filling
from attar.stages.runtime.described import StageConfig
from attar.stages.runtime.input_slots import InputSlot, by_slot, members, slots_of
from attar.stages.runtime.progress import Metric, hearing, listen, note

C = TypeVar("C", bound=StageConfig)
I = TypeVar("I")  # noqa: E741
A = TypeVar("A", bound=Artifact)
M = TypeVar("M", bound=Artifact)


def default_kind(kind: str) -> BeforeValidator:
    """Return what lets alternatives be given without their `kind`: it is this one then."""
    return BeforeValidator(lambda given: {"kind": kind, **given} if isinstance(given, Mapping) else given)


@dataclass(frozen=True)
class Forecast:
    """What a stage will make and need, told before it runs. Zero means not known."""

    facts: Facts = field(default_factory=dict)
    num_flops: float = 0.0
    peak_memory_bytes: float = 0.0
    disk_bytes: float = 0.0


@dataclass(frozen=True)
class Sharding(Generic[C, I, A]):
    """How workers share a stage's work. It comes in pieces, each worker does its own, and one gathers what they leave.

    What is gathered is the same, bit for bit, whatever the number of shards: a piece is done alike whoever does it.
    """

    work: Callable[[C, I, Shard, Path], ShardArtifact]
    gather: Callable[[C, I, Sequence[ShardArtifact], Path], A]
    # How many pieces there are at most, from config and facts; 0: not known yet. Raises ValueError for work that cannot be shared.
    max_pieces: Callable[[C, Mapping[str, tuple[Facts, ...]]], int]
    # What the work comes in, in words.
    pieces: str

    def check(self, num_shards: int, config: C, facts: Mapping[str, tuple[Facts, ...]]) -> None:
        """Raise ValueError where so many workers cannot share the work, as far as facts tell."""
        num_pieces = self.max_pieces(config, facts)
        if num_pieces:
            Shard(0, num_shards).check(num_pieces, self.pieces)


@dataclass(frozen=True)
class Stage(Generic[C, I, A]):
    """A stage with its contract, read from the signature of the function that does the work."""

    name: str
    version: int
    run: Callable[[C, I, Path], A]
    config_type: type[C]
    input_type: type[I]
    # every kind of artifact that it can make; which of them, from the config and the kind in the slot that it follows
    output_types: tuple[type[A], ...]
    output_type: Callable[[C, type[Artifact] | None], type[A]]
    # Facts, cost and refusals that follow from the config and from the inputs' facts alone. Raises ValueError for a combination that cannot work.
    forecast: Callable[[C, Mapping[str, tuple[Facts, ...]]], Forecast]
    # Digest of what the config only points to (a file's content), so that a changed file is a different work order.
    outside: Callable[[C], str]
    # True when the stage, so configured, mostly waits for disk, network or a database: it may run beside a heavy one.
    is_light: Callable[[C], bool]
    # Name of the input whose kind has a say in what is made; empty: none has.
    follows: str = ""
    # How many GPUs it trains on at once, so configured.
    num_devices: Callable[[C], int] = lambda config: 1
    # Refusals that need what it is given, such as fingerprints: told by the plan where that is made already, else before the work.
    check: Callable[[C, I], None] = lambda config, inputs: None
    # How several workers do it; None: one does it whole.
    sharding: Sharding[C, I, A] | None = None

    @property
    def summary(self) -> str:
        """First line of the stage's docstring."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]

    @property
    def slots(self) -> dict[str, InputSlot]:
        """The stage's inputs by name."""
        return {slot.name: slot for slot in slots_of(self.input_type)}

    @property
    def makes(self) -> str:
        """The kinds of what the stage can make, in words."""
        return " or ".join(kind.kind for kind in self.output_types)

    def key(self, config: C, inputs: I) -> str:
        """Return the identity of this piece of work: stage, version, config, input fingerprints, outside content."""
        fingerprints = {name: [a.fingerprint for a in artifacts] for name, artifacts in by_slot(inputs).items()}
        order = [self.name, self.version, config.model_dump(mode="json"), fingerprints, self.outside(config)]
        return digest(order)

    def execute(
        self,
        config: C,
        inputs: I,
        store: Store,
        *,
        expected_bytes: int = 0,
        is_forced: bool = False,
        shards: Sequence[ShardArtifact] = (),
    ) -> Outcome[A]:
        """Return the stage's artifact, from the store when a verified copy is there; of `shards`, gathered. Needs no orchestrator.

        Raises ValueError for input the stage cannot work on, DiskFullError when the result does not fit.
        """
        key, run = self.key(config, inputs), self.run
        followed = by_slot(inputs).get(self.follows)
        slot = self._slot(config, inputs, store, expected_bytes)
        if shards:
            assert self.sharding is not None, "the recipe refuses shards of a stage that does its work whole"
            check_complete(shards, key)
            gather, slot = self.sharding.gather, replace(slot, spent=tuple(map(store.manifest, shards)))
            run = lambda config, inputs, workdir: gather(config, inputs, shards, workdir)  # noqa: E731
        kind = self.output_type(config, type(followed[0]) if followed else None)
        return self._stored(slot, kind, key, partial(self._build, run, config, inputs), store, is_forced)

    def execute_shard(
        self, config: C, inputs: I, store: Store, shard: Shard, *, is_forced: bool = False
    ) -> Outcome[ShardArtifact]:
        """Return what one of several workers makes of its part; from the store when a verified copy is there."""
        assert self.sharding is not None, "the recipe refuses shards of a stage that does its work whole"
        work = self.sharding.work
        run = lambda config, inputs, workdir: work(config, inputs, shard, workdir)  # noqa: E731
        slot, key = self._slot(config, inputs, store, 0), shard.key(self.key(config, inputs))
        return self._stored(slot, ShardArtifact, key, partial(self._build, run, config, inputs), store, is_forced)

    def _slot(self, config: C, inputs: I, store: Store, expected_bytes: int) -> Slot:
        plain = config.model_dump(mode="json")
        entries = _input_entries(store, inputs)
        return Slot(stage=self.name, version=self.version, config=plain, inputs=entries, expected_bytes=expected_bytes)

    def _build(self, run: Callable[[C, I, Path], M], config: C, inputs: I, workdir: Path) -> M:
        metrics: list[Metric] = []
        self.check(config, inputs)
        with listen(hearing(metric=metrics.append)):
            artifact = run(config, inputs, workdir)
        _write_records(workdir / CONTENT, metrics)
        return artifact

    def _stored(
        self, slot: Slot, kind: type[M], key: str, build: Callable[[Path], M], store: Store, is_forced: bool
    ) -> Outcome[M]:
        wait = partial(note, "another run is building this artifact: waiting for it")
        return store.get_or_build(slot, kind, key, build, is_forced=is_forced, on_wait=wait)


def stage(
    name: str,
    version: int,
    *,
    forecast: Callable[[Any, Mapping[str, tuple[Facts, ...]]], Forecast] | None = None,
    outside: Callable[[Any], str] | None = None,
    is_light: bool | Callable[[Any], bool] = False,
    output: Callable[[Any, type[Artifact] | None], type[Any]] | None = None,
    follows: str = "",
    num_devices: Callable[[Any], int] = lambda config: 1,
    check: Callable[[Any, Any], None] = lambda config, inputs: None,
    mask_filling: Collection[str] = (),
    sharding: Sharding[Any, Any, Any] | None = None,
) -> Callable[[Callable[[C, I, Path], A]], Stage[C, I, A]]:
    """Make a stage of a function `(config, inputs, workdir) -> artifact`; raise `version` whenever its output changes meaning.

    `output`: which of several kinds, by config and the kind in slot `follows`; else that, or the first. `mask_filling`: inputs that may fill masks.
    """

    def forecast_of(config: Any, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
        refuse_mask_filling(inputs, mask_filling)
        return Forecast() if forecast is None else forecast(config, inputs)

    def decorate(run: Callable[[C, I, Path], A]) -> Stage[C, I, A]:
        hints = typing.get_type_hints(run)
        made = members(hints["return"])
        assert len(made) == 1 or output or follows, f"{name} makes several kinds: say which by `output` or `follows`"
        return Stage(
            name=name,
            version=version,
            run=run,
            config_type=hints["config"],
            input_type=hints["inputs"],
            output_types=made,
            output_type=output or (lambda config, kind: next((own for own in made if own is kind), made[0])),
            follows=follows,
            forecast=forecast_of,
            outside=outside or (lambda config: ""),
            is_light=is_light if callable(is_light) else (lambda config, answer=bool(is_light): answer),
            num_devices=num_devices,
            check=check,
            sharding=sharding,
        )

    return decorate


@dataclass(frozen=True, kw_only=True)
class NoInputs:
    """For a stage that reads only the outside world."""


def check_vocabulary(model: Facts, other: Facts, who: str, accepted: str = "") -> None:
    """Raise ValueError when both say how many tokens they know, and differ: ids would mean different tokens."""
    model_size, other_size = model.get("vocab_size"), other.get("vocab_size")
    if model_size is not None and other_size is not None and model_size != other_size:
        raise ValueError(
            f"vocabulary mismatch: model {model_size}, {who} {other_size} tokens{accepted and f'; {accepted}'}"
        )


def check_covers(other: Facts, model: Facts, who: str) -> None:
    """Raise ValueError when `other` knows fewer tokens than the model. It can speak over a part of its own, not over more."""
    if int(other.get("vocab_size", 0)) > int(model.get("vocab_size", 0)):
        return
    check_vocabulary(model, other, who)


def _input_entries(store: Store, inputs: Any) -> dict[str, list[dict[str, str]]]:
    entries = {}
    for slot, artifacts in by_slot(inputs).items():
        entries[slot] = [
            {"stage": store.manifest(a)["stage"], "kind": a.kind, "key": a.key, "fingerprint": a.fingerprint}
            for a in artifacts
        ]
    return entries


def _write_records(content: Path, metrics: list[Metric]) -> None:
    if not metrics:
        return
    records = content / RECORDS_FOLDER
    records.mkdir(exist_ok=True)
    with (records / "metrics.jsonl").open("w") as stream:
        for metric in metrics:
            stream.write(json.dumps(dataclasses.asdict(metric)) + "\n")
