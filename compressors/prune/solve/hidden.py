"""Candidates of the residual stream: fewer of its channels, or of its principal directions, with what all matrices then save."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from attar.compressors.models.skeleton import stored_tensors
from attar.compressors.prune.hidden.stream import Stream, accepted_widths, stream_of, stream_width
from attar.compressors.prune.solve.candidates import Units
from attar.compressors.prune.solve.costs import PartCosts
from attar.compressors.prune.solve.items import Item
from attar.compressors.prune.solve.probe import NarrowStream, Probe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def stream_widths(
    model: PreTrainedModel, fractions: Sequence[float], step: int, group_counts: Sequence[int] = ()
) -> list[int]:
    """Return the widths nearest to shares of the stream, ascending, multiples of `step` that the config takes beside its heads.

    `group_counts`: numbers of KV groups that a plan may leave; a width must go with each of them. Raises ValueError when none does.
    """
    whole, config = stream_width(model), model.config
    ratio = config.num_attention_heads // (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    accepted = accepted_widths(
        model, step, int(0.95 * min(fractions) * whole), [ratio * count for count in group_counts]
    )
    if not accepted:
        raise ValueError(
            f"{type(model).__name__}: its config takes no hidden_size from {min(fractions):g} of {whole} on in multiples of {step}; "
            "accepted: another hidden_step, or smaller hidden_fractions"
        )
    return sorted({min(accepted, key=lambda width: abs(width - fraction * whole)) for fraction in fractions})


def hidden_items(
    probe: Probe,
    costs: Mapping[str, PartCosts],
    units: Units,
    axis: str,
    widths: Sequence[int],
    on_run: Callable[[int], None],
) -> list[Item]:
    """Return an item a width of the stream. No widths between them: each would be one more walk of the solve over all blocks."""
    whole = stream_width(probe.model)
    losses = probe.losses([NarrowStream(units.keep(axis, width)) for width in widths], on_run)
    stream = stream_of(probe.model, widths[0])
    return [
        Item(
            axis=axis,
            where=f"{width:,} of {whole:,} channels of the stream",
            loss_nats=loss,
            savings=_savings(probe.model, stream, costs, width),
            group="stream",
            reach="share",
            amount=width,
        )
        for width, loss in zip(widths, losses, strict=True)
    ]


def _savings(model: PreTrainedModel, stream: Stream, costs: Mapping[str, PartCosts], width: int) -> dict[str, float]:
    """Return what goes with the other channels: parameters are counted, products and time fall with the width.

    Attention over the context works on heads, which stay, as the cache does.
    """
    share = width / stream.width
    tensors = {id(tensor): tensor for tensor in stored_tensors(model).values()}  # tied ones are one
    gone = float(sum(round(tensors[key].numel() * (1.0 - share ** len(dims))) for key, dims in stream.sized.items()))
    savings = {"parameters": gone, "bytes": gone * costs["bytes"].total / costs["parameters"].total}
    savings["flops"] = (1.0 - share) * (costs["flops"].total - costs["flops"].over_context)
    if "ms" in costs:
        savings["ms"] = (1.0 - share) * costs["ms"].total
    return savings
