"""Stage `narrow`: take feed-forward channels and KV groups out of every block, leaving a plain model with fewer of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from attar.compressors.catalogue import build
from attar.compressors.prune.depth.block_refit import Matches
from attar.compressors.prune.width.budget import WidthCost, width_cost
from attar.compressors.prune.width.cut import config_changes, cut_width, silenced
from attar.compressors.prune.width.scores import WIDTH_SCORES
from attar.registry.artifacts.handles import DatasetArtifact, Facts, ModelArtifact
from attar.stages.artifacts.dataset.samples import mixed_samples
from attar.stages.artifacts.model.folder import load_model, save_model
from attar.stages.artifacts.model.proof import check_kept, kept_logits, prove_written
from attar.stages.artifacts.model.size_forecast import narrowed, stored_bytes
from attar.stages.artifacts.model.width_facts import known_cost
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.narrow.passes import MAX_GRAM_BYTES, Passes, Units, record_kept
from attar.stages.prune.refit_pass import refit_result
from attar.stages.runtime.device import Precision, pick_device, pick_dtype
from attar.stages.runtime.progress import note

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

# Each says how many channels stay; at most one is given.
SIZES = ("num_ffn_channels", "ffn_fraction", "num_parameters", "parameter_fraction", "equal_to_blocks")


class NarrowConfig(StageConfig):
    """How much width goes, from every block alike, and by which score."""

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

    num_removed_groups: int = Field(default=0, ge=0)
    """KV heads to remove from each block, each with the query heads that use it."""

    score: str = "taylor"
    """What decides within a block: activation, contribution, taylor; magnitude and random, without data, as controls."""

    params: dict[str, Any] = {}
    """Parameters of the score; for random: seed."""

    patch: Literal["none", "linear", "refit"] = "none"
    """linear: the kept units take over, by least squares on `data`, what the removed ones contributed. refit: after that, the last two
    matrices of every block are fitted anew, each on what the narrower blocks before it now give. No training."""

    ridge: float = Field(default=1e-1, gt=0)
    """Penalty of the linear patch, relative to each unit's mean square."""

    refit_ridge: float = Field(default=0.2, gt=0)
    """Penalty of refit, relative to the mean squared input of a matrix."""

    num_samples: int = Field(default=64, ge=1)
    """Rows of `data` to score on, and to fit the patch on, in equal shares of several data sets; fewer when there are fewer."""

    max_tokens: int = Field(default=256, ge=2)
    """Cut of each row, in tokens."""

    batch_size: int = Field(default=4, ge=1)
    """Rows in one pass; taylor keeps a batch's activations and logits for its backward pass."""

    precision: Precision = "auto"
    """Dtype of the passes; scores and fits are summed in float32 or more, and the model keeps its own dtype."""

    @model_validator(mode="after")
    def _sizes_and_score(self) -> NarrowConfig:
        given = [name for name in SIZES if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} contradict: at most one of {', '.join(SIZES)} is accepted")
        if not given and not self.num_removed_groups:
            raise ValueError(f"nothing to remove: give num_removed_groups or one of {', '.join(SIZES)}")
        try:
            build(WIDTH_SCORES, self.score, self.params)
        except ValueError as error:
            raise ValueError(f"score: {error}") from error
        return self

    @property
    def reads_data(self) -> bool:
        """Whether the score or the patch looks at calibration rows."""
        return WIDTH_SCORES[self.score].source != "weights" or self.patch != "none"


@dataclass(frozen=True, kw_only=True)
class NarrowInputs:
    """The model, and the rows that show what it is used for; magnitude and random without a patch read none."""

    model: ModelArtifact
    data: tuple[DatasetArtifact, ...] = ()


def _forecast(config: NarrowConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    if config.reads_data != bool(inputs.get("data")):
        why = f"score is {config.score!r} and patch {config.patch!r}"
        raise ValueError(f"{why}: they need the input `data`" if config.reads_data else f"{why}: they read no `data`")
    model = inputs["model"][0]
    facts: Facts = {name: model[name] for name in ("vocab_size", "hidden_size", "num_blocks") if name in model}
    num_bytes, num_gram_bytes = 4.0 * float(model.get("num_parameters", 0)), 0.0
    cost = known_cost(model)
    if cost is not None:
        num_channels = kept_channels(config, cost)
        facts |= narrowed(model, num_channels, config.num_removed_groups)
        if config.patch != "none":
            num_gram_bytes = min(MAX_GRAM_BYTES, 4.0 * cost.num_blocks * cost.num_channels**2)
    elif config.num_parameters or (config.parameter_fraction and "num_parameters" in model):
        share = config.parameter_fraction * float(model.get("num_parameters", 0))
        facts |= {"num_parameters": config.num_parameters or int(share)}
    num_passes = {"weights": 0, "activations": 1, "gradients": 2}[WIDTH_SCORES[config.score].source]
    num_passes += {"none": 0, "linear": 1, "refit": 4}[config.patch]
    num_flops = 0.5 * num_bytes * num_passes * config.num_samples * config.max_tokens
    disk_bytes = stored_bytes(facts) or num_bytes
    num_copies = 3 if config.patch == "refit" else 2
    return Forecast(facts, num_flops, peak_memory_bytes=num_copies * num_bytes + num_gram_bytes, disk_bytes=disk_bytes)


@stage("narrow", version=3, forecast=_forecast)
def narrow(config: NarrowConfig, inputs: NarrowInputs, workdir: Path) -> ModelArtifact:
    """Remove feed-forward channels and KV heads; the result loads and decodes like any other model of its family, which is tried.

    Raises ValueError when a plain config of the family cannot say the new sizes, the budget cannot be reached, or the proof fails.
    """
    device = pick_device()
    result, kept, expected = _narrowed(config, inputs, device)
    artifact = save_model(result, workdir / "content", tokenizer_from=inputs.model.path)
    record_kept(workdir / "content", kept)
    del result
    prove_written(artifact.path, expected, "narrow", device)
    return artifact


def _narrowed(
    config: NarrowConfig, inputs: NarrowInputs, device: torch.device
) -> tuple[PreTrainedModel, dict[Units, list[Tensor]], Tensor]:
    """Return the narrower model, the units that it kept, and its logits on the proof's prompts."""
    model = load_model(inputs.model.path, pick_dtype(config.precision, device), device)
    cost = width_cost(model)
    num_channels, num_groups = kept_channels(config, cost), cost.num_groups - config.num_removed_groups
    num_kept: dict[Units, int] = {}
    if num_channels < cost.num_channels:
        num_kept["channels"] = num_channels
    if config.num_removed_groups:
        num_kept["groups"] = num_groups
    config_changes(model, num_channels=num_kept.get("channels"), num_groups=num_kept.get("groups"))
    samples: list[list[int]] = []
    if inputs.data:
        samples = mixed_samples(inputs.model.path, inputs.data, config.num_samples, config.max_tokens)
    passes = Passes(model, samples, config.batch_size)
    kept = passes.choose(build(WIDTH_SCORES, config.score, config.params), num_kept)
    result = load_model(inputs.model.path, "auto", device)  # the passes may have run in another dtype
    if config.patch != "none":
        passes.patch(result, kept, config.ridge)
    expected = _cut(result, kept)
    if config.patch == "refit":
        every = tuple(range(cost.num_blocks))
        matches, ridge = Matches(every, every), config.refit_ridge
        refit_result(result, model, samples, matches, first=0, ridge=ridge, batch_size=config.batch_size)
        expected = kept_logits(result, "narrow")
    note(
        f"kept in each block: {num_channels} of {cost.num_channels} channels"
        + (f", {num_groups} of {cost.num_groups} KV groups" if "groups" in num_kept else "")
    )
    return result, kept, expected


def _cut(result: PreTrainedModel, kept: Mapping[Units, list[Tensor]]) -> Tensor:
    """Narrow in place and return the logits; they must be the whole model's with the other units silent."""
    units = {"channels": kept.get("channels"), "groups": kept.get("groups")}
    with silenced(result, **units):
        whole = kept_logits(result, "narrow")
    cut_width(result, **units)
    check_kept(result, whole, "narrow")
    return kept_logits(result, "narrow")


def kept_channels(config: NarrowConfig, cost: WidthCost) -> int:
    """Return the channels that stay in each block. Raises ValueError naming the field that cannot be met."""
    cost.check_groups(config.num_removed_groups)
    given = next((name for name in SIZES if getattr(config, name)), "")
    if not given:
        return cost.num_channels
    value = getattr(config, given)
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
            return cost.channels_for_fraction(value, config.multiple_of)
        return cost.channels_for_budget(budgets[given](), config.num_removed_groups, config.multiple_of)
    except ValueError as error:
        raise ValueError(f"{given}: {error}") from error
