"""The sub-networks of an elastic encoder, as configs and facts name them. Refused where the model has none such."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from attar.compressors.elastic.space import ElasticRule, Space
from attar.registry.artifacts.facts import Facts, several
from attar.registry.artifacts.subjects import ENCODER, IMAGES, subject_of
from attar.stages.artifacts.model.folder import QuantizedBase
from attar.stages.contract import StageConfig

AXES = ("blocks", "width", "heads", "channels")
# What the facts of a model begin with that say the sizes of its sub-networks.
PREFIX = "elastic_"


def _ascending(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if list(sizes) != sorted(set(sizes)):
        raise ValueError(f"sizes are {list(sizes)}; accepted: each once, from the smallest to the largest")
    return sizes


Sizes = Annotated[tuple[Annotated[int, Field(ge=1)], ...], AfterValidator(_ascending)]


class SpaceConfig(StageConfig):
    """The sizes that sub-networks may have, beside the whole model's own. Every combination is one whose heads divide its width."""

    blocks: Sizes = ()
    """Numbers of blocks, such as [3, 4]: evenly spread over the model's, the first and the last among them."""

    width: Sizes = ()
    """Widths of the states, such as [192, 288]: the first numbers of each state."""

    heads: Sizes = ()
    """Numbers of heads of each block, such as [6, 9]; each has width / heads numbers, at most as many as a head of the model."""

    channels: Sizes = ()
    """Numbers of feed-forward channels of each block, such as [768]: the first ones."""

    @model_validator(mode="after")
    def _has_sizes(self) -> SpaceConfig:
        if not self.space.axes:
            raise ValueError(f"space is empty; accepted: sizes of one or more of {', '.join(AXES)}")
        return self

    @property
    def space(self) -> Space:
        """The sizes as the science takes them."""
        return Space(**{axis: getattr(self, axis) for axis in AXES})


class SubNetworks(StageConfig):
    """All weights of an encoder or a ViT, as those of many. Each step trains the whole and sub-networks, which compute with slices of its weights."""

    kind: Literal["elastic"]
    """The sub-networks of `space` learn. https://arxiv.org/abs/2201.12507"""

    space: SpaceConfig
    """The sizes of the sub-networks, such as {blocks: [3, 4], width: [192, 288], heads: [6, 9], channels: [768]}."""

    num_drawn: int = Field(default=2, ge=0)
    """Sub-networks that are drawn anew in each step, beside the largest and the smallest. https://arxiv.org/abs/1903.05134"""

    whole_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the whole network in the loss, in (0, 1); the others' are alike. 0: all are alike."""

    has_smallest: bool = True
    """The smallest is in every step too. false: the whole and drawn ones alone. https://arxiv.org/abs/2408.01031"""

    small_weight: float = Field(default=1.0, ge=1.0)
    """How much likelier the fewest blocks, and the least width, are drawn than the whole's: 3 in https://arxiv.org/abs/2408.01031; 1: all alike."""

    order: tuple[Literal["width", "heads", "channels"], ...] = ()
    """Axes along which the most important by the weights is put first before training. width: a text's vector is then one of other order."""

    blocks: ClassVar[Literal["all"]] = "all"
    trains_base: ClassVar[bool] = True
    stands_before: ClassVar[bool] = False
    exits: ClassVar[tuple[int, ...]] = ()
    quantized_base: ClassVar[QuantizedBase] = "none"
    rank: ClassVar[int] = 0
    expert_rank: ClassVar[int] = 0

    @property
    def moves_width(self) -> bool:
        """Whether vectors of a sub-network, or of the whole, are not those of before number by number."""
        return bool(self.space.width) or "width" in self.order

    @property
    def rule(self) -> ElasticRule:
        """The sub-networks as training takes them."""
        own = {name: getattr(self, name) for name in ElasticRule.__dataclass_fields__ if name != "space"}
        return ElasticRule(space=self.space.space, **own)


def space_facts(space: Space | None) -> dict[str, tuple[int, ...]]:
    """Return a space as facts of what was trained over it; of none, none."""
    return {} if space is None else {f"{PREFIX}{axis}": sizes for axis, sizes in space.axes.items()}


def with_space(facts: Facts, space: Space | None) -> dict[str, Any]:
    """Return the facts of a model with the sub-networks of its last training, and none of an earlier one."""
    return {name: fact for name, fact in facts.items() if not name.startswith(PREFIX)} | space_facts(space)


def space_of(facts: Facts) -> Space | None:
    """Return the sizes that an encoder's sub-networks were trained at; None where none were."""
    sizes = {axis: tuple(map(int, several(facts, f"{PREFIX}{axis}"))) for axis in AXES}
    return Space(**sizes) if any(sizes.values()) else None


def check_space(space: Space, model: Facts, field: str) -> None:
    """Raise ValueError for sizes above the model's, as far as facts tell, and for a subject that has no sub-networks."""
    if (subject := subject_of(model)) not in (ENCODER, IMAGES) and model:
        raise ValueError(
            f"{field} has sub-networks of an encoder, but the model is {subject.words}; accepted: an encoder or an image classifier"
        )
    if subject is IMAGES and (family := model.get("architecture", "vit")) != "vit":
        raise ValueError(f"{field} has sub-networks, but the model is a {family}, of several stages; accepted: a vit")
    for axis, fact in (("blocks", "num_blocks"), ("width", "hidden_size")):
        sizes, most = getattr(space, axis), model.get(fact)
        if sizes and most is not None and sizes[-1] > int(most):
            raise ValueError(f"{field}.{axis} has {sizes[-1]}, but the model has {most}; accepted: 1 to {most}")
