"""What the stage `prune` is told: which blocks go, how the cut is patched, and its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from attar.compressors.catalogue import did_you_mean
from attar.compressors.images.search import SEARCHED
from attar.compressors.prune.depth.metrics import BLOCK_METRICS, PATCH_METRICS
from attar.compressors.prune.solve.items import QUANTITIES
from attar.registry.artifacts.handles import AnyData, AnyModel, ScanArtifact
from attar.stages.artifacts.model.placement import InMemory
from attar.stages.contract import StageConfig, default_kind
from attar.stages.prune.elastic.config import ElasticConfig
from attar.stages.runtime.device import Precision
from attar.stages.runtime.older_fields import Moved, named_kind

Quantity = Literal["blocks", "parameters", "flops", "latency"]
PlanQuantity = Literal["parameters", "bytes", "kv_bytes", "flops", "ms"]


class NoPatch(StageConfig):
    """The cut stays as it is."""

    kind: Literal["none"] = "none"
    """The cut stays as it is."""


class LinearPatch(StageConfig):
    """A closed-form map, fitted on `data` and folded into the block before the window."""

    kind: Literal["linear"]
    """A closed-form map in the block before the window."""

    ridge: float = Field(default=1e-2, gt=0)
    """Weight of the map's size in its fit, relative to the mean squared input."""

    weight: Literal["none", "norm"] = "norm"
    """norm: divide each token's squared error by the norm of its state, so that massive activations do not decide the fit alone."""

    num_samples: int = Field(default=256, ge=1)
    """Rows of `data` that it is fitted on, in equal shares of several data sets; fewer when there are fewer."""

    max_tokens: int = Field(default=512, ge=2)
    """Cut of each of those rows, in tokens."""

    batch_size: int = Field(default=8, ge=1)
    """Rows in one forward pass of the fit."""

    precision: Precision = "auto"
    """Dtype of its passes; its fits are summed in float32 or more, and the model keeps its own dtype."""


class RefitPatch(StageConfig):
    """Fit the last two matrices of every block from the first cut on. On `data`, each on what the blocks before it now give."""

    kind: Literal["refit"]
    """The last two matrices of every block from the first cut on."""

    ridge: float = Field(default=0.2, gt=0)
    """Weight of the size of the changes, relative to the mean squared input of a matrix."""

    num_samples: int = Field(default=256, ge=1)
    """Rows of `data` that it is fitted on, in equal shares of several data sets; fewer when there are fewer."""

    max_tokens: int = Field(default=512, ge=2)
    """Cut of each of those rows, in tokens."""

    batch_size: int = Field(default=8, ge=1)
    """Rows in one forward pass of the fit."""

    precision: Precision = "auto"
    """Dtype of its passes; its fits are summed in float32 or more, and the model keeps its own dtype."""


Patch = Annotated[NoPatch | LinearPatch | RefitPatch, Field(discriminator="kind"), default_kind("none")]
FITTED = ("linear", "refit")
# What says how much goes; exactly one is given.
WAYS = ("num_blocks", "blocks", "keep_fraction", "plan", "elastic")


class PlanConfig(StageConfig):
    """A solve over the candidates that the scan measured: the plan that loses least under every budget."""

    budget: dict[PlanQuantity, float]
    """Share of the whole model's parameters, bytes, kv_bytes, flops or ms that may be left, each in (0, 1)."""

    axes: list[str] = []
    """Axes that may be used, of those that the scan measured. Empty: all."""

    trials: bool = False
    """Repair one plan of each axis first and price the axis by what the repair leaves of its losses: a refit an axis more."""

    @field_validator("budget")
    @classmethod
    def _inside(cls, value: dict[PlanQuantity, float]) -> dict[PlanQuantity, float]:
        if not value:
            raise ValueError(f"budget is empty; accepted: one or more of {', '.join(QUANTITIES)}")
        for quantity, fraction in value.items():
            if not 0.0 < fraction < 1.0:
                raise ValueError(f"budget.{quantity} is {fraction:g}; accepted: above 0 and below 1")
        return value


class PruneConfig(StageConfig):
    """Which blocks go, and what repairs the cut. The best under a metric, as many as wanted or as a budget takes, or a list."""

    num_blocks: int = Field(default=0, ge=0)
    """How many adjacent blocks to remove: the window that scores lowest goes. 0 with `blocks`."""

    keep_fraction: dict[Quantity, float] = {}
    """Instead of num_blocks: share of the blocks, or of the whole model's parameters, flops or latency, that may be left, in (0, 1);
    the fewest go."""

    metric: str = "angular_distance"
    """Score that chooses: one that the scan computed."""

    choice: Literal["window", "free"] = "window"
    """window: adjacent blocks; free: any, the lowest-scoring, or the greedy order of perplexity_increase and kl_increase."""

    protect_first: int = Field(default=0, ge=0)
    """How many of the first blocks must stay."""

    protect_last: int = Field(default=0, ge=0)
    """How many of the last blocks must stay."""

    blocks: list[int] = []
    """Zero-based indices to remove instead, in any order; needs no scan."""

    plan: PlanConfig | None = None
    """Instead of blocks alone: the best plan over all axes that the scan measured, {budget: {parameters: 0.75}}."""

    elastic: ElasticConfig | None = None
    """Instead, of an elastic encoder: a sub-network of it, {budget: {parameters: 0.5}} or {subnet: {blocks: 3}}."""

    patch: Patch = NoPatch()
    """What repairs the cut without training: {kind: none}, {kind: linear}, or {kind: refit} for any number of cuts."""

    in_memory: InMemory = "auto"
    """model: the whole model; block: one decoder block at a time, from its file; auto: block where the model does not fit."""

    moved: ClassVar[Mapping[str, Moved]] = {
        "patch": Moved("patch", named_kind),
        "ridge": Moved("patch.ridge", kinds=("linear",)),
        "refit_ridge": Moved("patch.ridge", kinds=("refit",)),
        "patch_weight": Moved("patch.weight", kinds=("linear",)),
        **{
            name: Moved(f"patch.{name}", kinds=FITTED)
            for name in ("num_samples", "max_tokens", "batch_size", "precision")
        },
    }

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        if value not in (*BLOCK_METRICS, SEARCHED):
            raise ValueError(f"unknown metric {value!r}.{did_you_mean(value, (*BLOCK_METRICS, SEARCHED))}")
        return value

    @model_validator(mode="after")
    def _has_one_way(self) -> PruneConfig:
        _check_fields(self)
        return self


@dataclass(frozen=True, kw_only=True)
class PruneInputs:
    """The model, its scan, and calibration rows. The scan chooses a window; the rows fit a patch, or compare sub-networks with a teacher."""

    model: AnyModel
    scan: ScanArtifact | None = None
    data: tuple[AnyData, ...] = ()
    teacher: AnyModel | None = None


def _check_fields(config: PruneConfig) -> None:
    """Raise ValueError for fields that contradict each other whatever the model."""
    given = [name for name in WAYS if getattr(config, name)]
    if not given:
        raise ValueError(
            f"num_blocks and blocks contradict: neither given, exactly one of {', '.join(WAYS)} is accepted"
        )
    if len(given) > 1:
        raise ValueError(f"{given[0]} and {given[1]} contradict: both given, exactly one is accepted")
    for quantity, fraction in config.keep_fraction.items():
        if not 0.0 < fraction < 1.0:
            raise ValueError(f"keep_fraction.{quantity} is {fraction:g}; accepted: above 0 and below 1")
    if config.choice == "free" and config.metric in PATCH_METRICS:
        raise ValueError(
            f"metric {config.metric} scores windows, not single blocks; choice 'window' is accepted with it"
        )
    if config.plan is not None and config.plan.trials and config.patch.kind != "refit":
        raise ValueError("plan.trials is true, but nothing is repaired; accepted with patch {kind: refit}")
    if config.plan is not None and config.patch.kind == "linear":
        raise ValueError("patch.kind is 'linear', but a plan makes many cuts; accepted with plan: none, refit")
    if config.plan is not None and config.in_memory == "block":
        raise ValueError(
            "in_memory is 'block', but a plan's cuts are tried on the whole model; accepted: 'model', 'auto'"
        )
    if config.elastic is not None and (config.patch.kind != "none" or config.in_memory == "block"):
        field = "patch" if config.patch.kind != "none" else "in_memory"
        raise ValueError(
            f"{field} is for causal language models, and elastic takes a sub-network of an encoder; accepted: none"
        )
    if config.choice == "free" and config.patch.kind == "linear":
        raise ValueError(
            "patch.kind is 'linear', but choice is 'free'; it repairs one cut: choice 'window', or patch {kind: refit}"
        )
