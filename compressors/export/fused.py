"""Trace attention, rotary embedding and RMS norms of any family as one ONNX node each.

transformers calls all three through few doors: the attention interface, `apply_rotary_pos_emb` of the family's module, and norm
modules. What stands behind a door is replaced only if it computes what the node does, on random numbers; else it is traced as written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

from attar.compressors.export.rotary import fuse_rotary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INTERFACE = "attar_graph"
# Added to the score of a column that no token may see. Not -inf: a row of padding alone must stay finite.
MASKED = -1e9
RMS_NORM_OPSET = 23


@dataclass
class Tracing:
    """What the attention of every block needs of the graph's inputs. Set by the traced forward before the model is called."""

    past: list[Float[Tensor, "B heads past head_size"]]
    present: list[Tensor]
    position_ids: Int[Tensor, "B T"] | None = None
    last_columns: Int[Tensor, "B"] | None = None
    num_columns: Int[Tensor, "1"] | None = None
    bias: Float[Tensor, "B 1 T S"] | None = None

    def begin(self, past: list[Tensor], attention_mask: Int[Tensor, "B S"], position_ids: Int[Tensor, "B T"]) -> Cache:
        """Read the inputs; return a cache that leaves keys and values alone: the attention node appends them."""
        (num_rows, num_columns), num_new = attention_mask.shape, position_ids.shape[1]
        columns = torch.arange(num_columns)
        self.past, self.present, self.position_ids = past, [], position_ids
        # the last real column of each row: the row's end, be its padding before the tokens or behind them
        self.last_columns = (attention_mask * columns).amax(dim=-1).to(torch.int32)
        self.num_columns = torch.full((1,), num_columns, dtype=torch.int32)
        hidden = torch.where(attention_mask == 0, MASKED, 0.0)
        self.bias = hidden[:, None, None, :].expand(num_rows, 1, num_new, num_columns)
        return Cache(layers=[_Untouched() for _ in range(len(past) // 2)])


class _Untouched(CacheLayerMixin):
    """The cache as the model sees it during the trace."""

    is_sliding = False

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


@contextmanager
def fused_operators(model: PreTrainedModel, *, fuse_norms: bool) -> Iterator[Tracing]:
    """Trace the model's attention (and rotary embeddings and norms that allow it) as single nodes inside the block."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface  # there since the model is

    tracing = Tracing([], [])
    config = model.config
    before = config._attn_implementation
    AttentionInterface.register(INTERFACE, _attention_door(tracing, config))
    with ExitStack() as stack:
        config._attn_implementation = INTERFACE
        stack.callback(lambda: setattr(config, "_attn_implementation", before))
        stack.callback(lambda: ALL_ATTENTION_FUNCTIONS._global_mapping.pop(INTERFACE, None))
        for module in model.modules():
            if fuse_norms and (norm := _norm_door(module)):
                stack.enter_context(patch.object(module, "forward", norm))
        fuse_rotary(model, lambda: tracing.position_ids, stack)
        yield tracing


def _attention_door(tracing: Tracing, config: Any) -> Callable[..., tuple[Tensor, None]]:
    def attend(
        module: nn.Module,
        query: Float[Tensor, "B H T D"],
        key: Float[Tensor, "B K T D"],
        value: Float[Tensor, "B K T D"],
        attention_mask: Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        sliding_window: int | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        _check_attention(module, key, value, options)
        index = int(module.layer_idx)  # type: ignore[arg-type]
        num_rows, num_heads, num_new, head_size = query.shape
        num_shared, bias = key.shape[1], tracing.bias
        assert bias is not None, "begun before the model is called"
        flat = [states.transpose(1, 2).reshape(num_rows, num_new, -1) for states in (query, key, value)]
        past = tracing.past[2 * index : 2 * index + 2]
        grown = (num_rows, num_shared, bias.shape[3], head_size)
        window = sliding_window or _window(config, index)
        output, *present = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            [*flat, *past, tracing.last_columns, tracing.num_columns, *[None] * 3, bias],
            {
                "num_heads": num_heads,
                "kv_num_heads": num_shared,
                "scale": float(scaling if scaling is not None else head_size**-0.5),
                "softcap": float(softcap or 0.0),
                "local_window_size": window or -1,
            },
            dtypes=[query.dtype] * 3,
            shapes=[flat[0].shape, grown, grown],
            version=1,
        )
        tracing.present += present
        return output.reshape(num_rows, num_new, num_heads, head_size), None

    return attend


def _check_attention(module: nn.Module, key: Tensor, value: Tensor, options: Mapping[str, Any]) -> None:
    name = type(module).__name__
    if options.get("s_aux") is not None or options.get("position_bias") is not None:
        raise ValueError(f"{name} adds sinks or a position bias to its scores; no graph is built for it")
    if value.shape[-1] != key.shape[-1]:
        raise ValueError(f"{name} has values of another size than keys; no graph is built for it")


def _window(config: Any, index: int) -> int | None:
    kinds = getattr(config, "layer_types", None)
    return config.sliding_window if kinds and kinds[index] == "sliding_attention" else None


def _norm_door(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return the one-node form of an RMS norm, None for other modules and for norms that compute something else."""
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
    if "RMSNorm" not in type(module).__name__ or weight is None or weight.ndim != 1 or epsilon is None:
        return None
    probe = torch.randn(3, len(weight), generator=torch.Generator().manual_seed(0))
    scaled = probe * torch.rsqrt(probe.square().mean(-1, keepdim=True) + epsilon)
    with torch.no_grad():
        expected = module(probe)
    for offset in (0.0, 1.0):  # Gemma keeps what it adds to one
        if torch.allclose(scaled * (offset + weight.detach()), expected, rtol=1e-5, atol=1e-6):
            return _rms_norm(module, offset, float(epsilon))
    return None


def _rms_norm(module: nn.Module, offset: float, epsilon: float) -> Callable[[Tensor], Tensor]:
    def norm(hidden_states: Tensor) -> Tensor:
        # read while the trace is on: so the graph knows it as the weight that it is
        weight = cast(Tensor, module.weight)
        gain = weight + offset if offset else weight
        return torch.onnx.ops.symbolic(
            "RMSNormalization",
            [hidden_states, gain],
            {"axis": -1, "epsilon": epsilon, "stash_type": 1},
            dtype=hidden_states.dtype,
            shape=hidden_states.shape,
            version=RMS_NORM_OPSET,
        )

    return norm
