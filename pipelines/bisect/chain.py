"""The models that a version came from, from the original to it. Each from the store, or built again as the run that made it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.manifest import CorruptArtifactError
from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import NodeRecord, RunRecord
from attar.stages.catalogue import STAGES
from attar.stages.runtime.progress import note

# The inputs by which a model comes from another, the likeliest first; teachers and originals beside it are none.
MODEL_SLOTS = ("model", "base", "students", "adapter")


@dataclass(frozen=True)
class Link:
    """A stored piece of work by its stage and key: an artifact, there or gone."""

    stage: str
    key: str

    def __str__(self) -> str:
        return f"{self.stage} {self.key[:12]}"

    @property
    def is_whole_model(self) -> bool:
        """Whether it is a model that runs by itself."""
        return self.stage in STAGES and all(kind.is_whole_model for kind in STAGES[self.stage].output_types)


@dataclass(frozen=True)
class Lineage:
    """What is known of where artifacts came from. By their manifests, and of those that are gone by the records of runs, newest first."""

    store: Store
    records: Sequence[RunRecord] = ()
    may_rebuild: bool = True

    def chain(self, last: Link) -> list[Link]:
        """Return the models from the original to `last`. Raises ValueError where one is gone and no run says how it was made."""
        links = [last]
        while (before := self._model_before(links[0])) is not None:
            if before in links:
                raise ValueError(f"{before} says that it was made from itself")
            links.insert(0, before)
        return links

    def artifact(self, link: Link) -> Artifact:
        """Return the artifact of a link, built again with all that it needs where it is gone. Raises ValueError where that cannot be."""
        if self.store.holds(link.stage, link.key):
            return self.store.load(link.stage, link.key)
        record, name = self._made(link)
        if not self.may_rebuild:
            raise ValueError(f"{link} is gone; `attar run {record.recipe} --until {name}` builds it again")
        return self._rebuilt(link, record, record.nodes[name])

    def _rebuilt(self, link: Link, record: RunRecord, node: NodeRecord) -> Artifact:
        stage = STAGES[link.stage]
        inputs: dict[str, Any] = {}
        for slot, names in node.inputs.items():
            artifacts = tuple(self.artifact(_link_of(record.nodes[name])) for name in names)
            inputs[slot] = artifacts if stage.slots[slot].is_many else artifacts[0]
        config, given = stage.config_type.model_validate(node.config), stage.input_type(**inputs)
        if stage.key(config, given) != link.key:
            raise ValueError(
                f"{link} is gone and cannot be rebuilt as it was: the stage, or what it read, is of another version now; run {record.recipe} again"
            )
        note(f"building {link} again, as run {record.id} did")
        return stage.execute(config, given, self.store).artifact

    def _model_before(self, link: Link) -> Link | None:
        """Return the model that a model, or an adapter, was made from; None of a model that was brought in."""
        inputs = self._inputs(link)
        ordered = [*MODEL_SLOTS, *(slot for slot in inputs if slot not in MODEL_SLOTS)]
        some = [other for slot in ordered if slot in MODEL_SLOTS for other in inputs.get(slot, ())]
        for other in some:
            if other.is_whole_model:
                return other
        # a merge of adapters alone: what they were trained on
        return next((model for other in some if (model := self._model_before(other)) is not None), None)

    def _inputs(self, link: Link) -> Mapping[str, list[Link]]:
        try:
            manifest = self.store.manifest(self.store.load(link.stage, link.key))
        except (CorruptArtifactError, OSError):
            record, name = self._made(link)
            return {
                slot: [_link_of(record.nodes[other]) for other in names]
                for slot, names in record.nodes[name].inputs.items()
            }
        return {
            slot: [Link(entry["stage"], entry["key"]) for entry in entries]
            for slot, entries in manifest["inputs"].items()
        }

    def _made(self, link: Link) -> tuple[RunRecord, str]:
        """Return the newest run that made an artifact, and its node. Raises ValueError where none is known."""
        for record in self.records:
            for name, node in record.nodes.items():
                if node.key == link.key and all(
                    record.nodes[other].key for slot in node.inputs.values() for other in slot
                ):
                    return record, name
        raise ValueError(
            f"{link} is gone and no run on this machine says how it was made: run the recipe of the version again"
        )


def _link_of(node: NodeRecord) -> Link:
    return Link(node.stage, node.key)
