"""What the stage `narrow` is told: how much width goes, by which score, what repairs it; and its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from attar.compressors.catalogue import build, did_you_mean
from attar.compressors.prune.channels.scores import IMAGE_WIDTH_SCORES
from attar.compressors.prune.width.budget import WidthCost
from attar.compressors.prune.width.scores import WIDTH_SCORES
from attar.registry.artifacts.handles import AnyData, ImageClassifierArtifact, ModelArtifact
from attar.stages.artifacts.model.placement import InMemory
from attar.stages.contract import StageConfig, default_kind
from attar.stages.runtime.device import Precision
from attar.stages.runtime.older_fields import Moved, named_kind, within

# What can be made narrower.
Narrowable = ModelArtifact | ImageClassifierArtifact
# Each says how many channels stay; at most one is given.
SIZES = ("num_ffn_channels", "ffn_fraction", "num_parameters", "parameter_fraction", "equal_to_blocks")
# What each score looks at; one of texts and of images looks at the same.
SOURCES = {name: score.source for name, score in {**WIDTH_SCORES, **IMAGE_WIDTH_SCORES}.items()}


class SizeConfig(StageConfig):
    """How many feed-forward channels stay in each block: one of these ways, or all."""

    num_ffn_channels: int = Field(default=0, ge=0)
    """Feed-forward channels that stay in each block, exactly. 0: not given."""

    ffn_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the channels that stays, in (0, 1), rounded to the nearest `multiple_of`. 0: not given."""

    num_parameters: int = Field(default=0, ge=0)
    """Budget: as many channels stay, a multiple of `multiple_of`, as leave the model at most this many parameters. 0: not given."""

    parameter_fraction: float = Field(default=0.0, ge=0, lt=1)
    """The same budget as a share of the model's parameters, in (0, 1). 0: not given."""

    equal_to_blocks: int = Field(default=0, ge=0)
    """The same budget as what would be left without this many whole blocks: depth and width at equal size. 0: not given."""

    multiple_of: int = Field(default=32, ge=1)
    """Channels come in multiples of this; 1 meets a budget to within one channel."""

    @property
    def given(self) -> str:
        """The way that is given; empty: all channels stay."""
        return next((name for name in SIZES if getattr(self, name)), "")


class NoPatch(StageConfig):
    """The kept units stay as they are."""

    kind: Literal["none"] = "none"
    """The kept units stay as they are."""


class LinearPatch(StageConfig):
    """The kept units take over, by least squares on `data`, what the removed ones contributed."""

    kind: Literal["linear"]
    """The kept units take over what the removed ones contributed."""

    ridge: float = Field(default=1e-1, gt=0)
    """Penalty of the fit, relative to each unit's mean square."""


class RefitPatch(StageConfig):
    """After the linear patch fit the last two matrices of every block anew. Each on what the narrower blocks before it now give."""

    kind: Literal["refit"]
    """After the linear patch, the last two matrices of every block."""

    ridge: float = Field(default=1e-1, gt=0)
    """Penalty of the linear patch, relative to each unit's mean square."""

    refit_ridge: float = Field(default=0.2, gt=0)
    """Penalty of the refit, relative to the mean squared input of a matrix."""


class CalibrationConfig(StageConfig):
    """The rows that scores and patches read."""

    num_samples: int = Field(default=64, ge=1)
    """Rows of `data` to score on, and to fit the patch on, in equal shares of several data sets; fewer when there are fewer."""

    max_tokens: int = Field(default=256, ge=2)
    """Cut of each row, in tokens."""

    batch_size: int = Field(default=4, ge=1)
    """Rows in one pass; taylor keeps a batch's activations and logits for its backward pass."""

    precision: Precision = "auto"
    """Dtype of the passes; scores and fits are summed in float32 or more, and the model keeps its own dtype."""


class NarrowConfig(StageConfig):
    """How much width goes, from every block alike, and by which score."""

    size: SizeConfig = SizeConfig()
    """How many feed-forward channels stay in each block."""

    num_removed_groups: int = Field(default=0, ge=0)
    """KV heads to remove from each block, each with the query heads that use it."""

    spread: Literal["even", "ranked"] = "even"
    """Of an image classifier under a budget. even: every width keeps the same share; ranked: widths fall where the score loses least."""

    score: str = "taylor"
    """What decides within a block: activation, contribution, taylor; magnitude and random, without data; of images also batch_norm."""

    params: dict[str, Any] = {}
    """Parameters of the score; for random: seed."""

    patch: Annotated[NoPatch | LinearPatch | RefitPatch, Field(discriminator="kind"), default_kind("none")] = NoPatch()
    """What repairs the cut without training: {kind: none}, {kind: linear} or {kind: refit}."""

    calibration: CalibrationConfig = CalibrationConfig()
    """The rows that scores and patches read."""

    in_memory: InMemory = "auto"
    """model: the whole model; block: one decoder block at a time, from its file; auto: block where the model does not fit."""

    moved: ClassVar[Mapping[str, Moved]] = {
        **within("size", *SizeConfig.model_fields),
        "patch": Moved("patch", named_kind),
        "ridge": Moved("patch.ridge", kinds=("linear", "refit")),
        "refit_ridge": Moved("patch.refit_ridge", kinds=("refit",)),
        **within("calibration", *CalibrationConfig.model_fields),
    }

    @model_validator(mode="after")
    def _sizes_and_score(self) -> NarrowConfig:
        given = [name for name in SIZES if getattr(self.size, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} contradict: at most one of {', '.join(SIZES)} is accepted")
        if not given and not self.num_removed_groups:
            raise ValueError(f"nothing to remove: give num_removed_groups or one of {', '.join(SIZES)}")
        _check_score(self.score, self.params)
        if self.in_memory == "block" and self.needs_gradients:
            raise ValueError(
                f"in_memory is 'block', but score {self.score!r} runs backwards through the whole model; accepted: 'model', or score "
                f"{', '.join(name for name, source in SOURCES.items() if source != 'gradients')}"
            )
        return self

    @property
    def needs_gradients(self) -> bool:
        """Whether the score runs backwards through the model, which needs all of it in memory."""
        return SOURCES[self.score] == "gradients"

    @property
    def reads_data(self) -> bool:
        """Whether the score or the patch looks at calibration rows."""
        return SOURCES[self.score] != "weights" or self.patch.kind != "none"


@dataclass(frozen=True, kw_only=True)
class NarrowInputs:
    """The model, and the rows or images that show what it is used for. Scores of weights alone, without a patch, read none."""

    model: Narrowable
    data: tuple[AnyData, ...] = ()


def _check_score(name: str, params: Mapping[str, Any]) -> None:
    """Raise ValueError for a score that neither texts nor images have, or with parameters that it has not."""
    try:
        if name not in SOURCES:
            raise ValueError(f"unknown method {name!r}.{did_you_mean(name, SOURCES)}")
        build(WIDTH_SCORES if name in WIDTH_SCORES else IMAGE_WIDTH_SCORES, name, params)
    except ValueError as error:
        raise ValueError(f"score: {error}") from error


def kept_channels(config: NarrowConfig, cost: WidthCost) -> int:
    """Return the channels that stay in each block. Raises ValueError naming the field that cannot be met."""
    cost.check_groups(config.num_removed_groups)
    size, given = config.size, config.size.given
    if not given:
        return cost.num_channels
    value = getattr(size, given)
    if not cost.num_channels:
        raise ValueError(
            f"{given}: channels of this family's feed-forward part cannot be removed; accepted: num_removed_groups"
        )
    if given == "num_ffn_channels":
        if value >= cost.num_channels:
            accepted = f"accepted: 1 to {cost.num_channels - 1}"
            raise ValueError(f"num_ffn_channels is {value}, but a block has {cost.num_channels}; {accepted}")
        return value
    if given == "equal_to_blocks" and value >= cost.num_blocks:
        raise ValueError(f"equal_to_blocks is {value}, but the model has {cost.num_blocks} blocks")
    budgets = {
        "num_parameters": lambda: value,
        "parameter_fraction": lambda: int(value * cost.num_parameters),
        "equal_to_blocks": lambda: cost.parameters_without_blocks(value),
    }
    try:
        if given == "ffn_fraction":
            return cost.channels_for_fraction(value, size.multiple_of)
        return cost.channels_for_budget(budgets[given](), config.num_removed_groups, size.multiple_of)
    except ValueError as error:
        raise ValueError(f"{given}: {error}") from error
