"""Where a block can be made narrower. Which rows and columns of which matrices belong to one feed-forward channel or KV group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.exits import ATTENTION_EXITS, ATTENTION_NAMES
from attar.compressors.prune.width.parts import Part, Rows, Vector, num_inputs, num_outputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from attar.compressors.models.exits import Matrix

# What families call the feed-forward part of a block; some have its matrices in the block itself.
FEED_FORWARDS = ("mlp", "feed_forward", "ffn", "shared_mlp", "")
# (matrices that make the channels, how many of them one matrix holds, the matrix that reads them), by the names families give them.
FEED_FORWARD_FORMS: tuple[tuple[tuple[str, ...], int, str], ...] = (
    (("gate_proj", "up_proj"), 1, "down_proj"),
    (("gate_up_proj",), 2, "down_proj"),
    (("up_proj",), 1, "down_proj"),
    (("w1", "w3"), 1, "w2"),
    (("input_linear",), 2, "output_linear"),
    (("c_fc",), 1, "c_proj"),
    (("dense_h_to_4h",), 1, "dense_4h_to_h"),
    (("fc1",), 1, "fc2"),
    (("fc_in",), 1, "fc_out"),
)
KEPT_HEADS = "its heads cannot be removed"
# Matrices of an attention that say how many heads it has, one set a form.
ATTENTION_FORMS = (("qkv_proj",), ("q_proj", "k_proj", "v_proj"))
# Of attention over latents: what makes all heads' queries (with a latent of their own, without), and keys and values together.
LATENT_QUERIES, LATENT_KEYS = ("q_b_proj", "q_proj"), "kv_b_proj"
LATENT_PARTS = ("_a_proj", "_a_layernorm", "_a_proj_with_mqa", "_a_norm")


def feed_forward_parts(model: PreTrainedModel) -> list[Part]:
    """Return the channels of every block. Raises ValueError for families whose channels are not free to go."""
    return _same_width([_feed_forward(block, _family(model)) for block in decoder_blocks(model)], model, "channels")


def attention_parts(model: PreTrainedModel) -> list[Part]:
    """Return the KV groups (key and value heads with the query heads that use them) of every block that attends.

    Raises ValueError, with the reason, for families whose heads are not free to go.
    """
    num_heads = getattr(model.config, "num_attention_heads", None)
    if not isinstance(num_heads, int):
        raise ValueError(f"{_family(model)}: its config has no one num_attention_heads; its heads cannot be removed")
    num_groups = getattr(model.config, "num_key_value_heads", None) or num_heads
    blocks = [block for block in decoder_blocks(model) if attention_of(block) is not None]
    if not blocks:
        raise ValueError(f"{_family(model)}: no attention of a known form; {KEPT_HEADS}")
    parts = [_attention(block, _family(model), num_heads, num_groups) for block in blocks]
    return _same_width(parts, model, "KV groups")


def attention_of(block: nn.Module) -> nn.Module | None:
    """Return the attention of a block, None where something else mixes its tokens."""
    parts = [getattr(block, name, None) for name in ATTENTION_NAMES]
    mixer = getattr(block, "mixer", None)
    return next(
        (module for module in (*parts, mixer if hasattr(mixer, "q_proj") else None) if module is not None), None
    )


def _feed_forward(block: nn.Module, family: str) -> Part:
    modules = dict(block.named_modules())
    matching = [
        (container, form)
        for container in FEED_FORWARDS
        for form in FEED_FORWARD_FORMS
        if all(_within(container, name) in modules for name in (*form[0], form[2]))
    ]
    if not matching:
        raise ValueError(f"{family}: no feed-forward part of a known form (experts?); its channels cannot be removed")
    container, (entries, num_fused, exit_name) = matching[0]
    matrices = [_matrix(modules[_within(container, name)], name, family) for name in (*entries, exit_name)]
    known = {id(parameter) for matrix in matrices for parameter in matrix.parameters()}
    feed_forward = modules[container] if container else nn.ModuleList(matrices)
    _refuse_others(feed_forward, known, f"{family}: {container or 'its block'}", "its channels cannot be removed")
    num_channels = num_inputs(matrices[-1])
    rows = [Rows(matrix, num * num_channels, 1) for matrix in matrices[:-1] for num in range(num_fused)]
    if any(num_outputs(matrix) != num_fused * num_channels for matrix in matrices[:-1]):
        raise ValueError(f"{family}: {entries[0]} and {exit_name} differ in size; its channels cannot be removed")
    return Part(num_channels, tuple(rows), matrices[-1], 1, block)


def _within(container: str, name: str) -> str:
    return f"{container}.{name}" if container else name


def _attention(block: nn.Module, family: str, num_heads: int, num_groups: int) -> Part:
    attention = attention_of(block)
    assert attention is not None, "of blocks that attend"
    modules = dict(attention.named_children())
    exit_name = next((name for name in ATTENTION_EXITS if name in modules), "")
    if "c_attn" in modules or "query_key_value" in modules or hasattr(attention, "embed_dim"):
        raise ValueError(f"{family}: its attention is hidden_size wide whatever the number of heads; {KEPT_HEADS}")
    if exit_name and LATENT_KEYS in modules:
        return _latent_attention(block, attention, exit_name, family, num_heads)
    names = next((form for form in ATTENTION_FORMS if exit_name and all(name in modules for name in form)), None)
    if names is None:
        raise ValueError(f"{family}: no attention of a known form; {KEPT_HEADS}")
    matrices = [_matrix(modules[name], name, family) for name in (*names, exit_name)]
    head_dim, ratio = num_inputs(matrices[-1]) // num_heads, num_heads // num_groups
    if len(names) == 1:
        if num_outputs(matrices[0]) != (num_heads + 2 * num_groups) * head_dim:
            raise ValueError(f"{family}: qkv_proj makes more than queries, keys and values; {KEPT_HEADS}")
        starts, widths = (
            [0, num_heads * head_dim, (num_heads + num_groups) * head_dim],
            [ratio * head_dim] + [head_dim] * 2,
        )
        rows = [Rows(matrices[0], *span) for span in zip(starts, widths, strict=True)]
    else:
        rows = [_rows(matrix, num_groups, family) for matrix in matrices[:3]]
    # a gate on what the heads give has rows as the queries have
    gates = [
        module for name, module in modules.items()
        if (name not in (*names, exit_name) and isinstance(module, nn.Linear) and "gate" in name) or name == "g_proj"
    ]  # fmt: skip
    rows += [_rows(_matrix(module, "gate", family), num_groups, family) for module in gates]
    known = {id(parameter) for matrix in (*matrices, *gates) for parameter in matrix.parameters()}
    vectors = _vectors(attention, known, num_heads, num_groups, head_dim, family)
    _refuse_others(attention, known, f"{family}: attention", KEPT_HEADS)
    return Part(num_groups, tuple(rows), matrices[-1], ratio * head_dim, block, vectors, head_dim)


def _latent_attention(block: nn.Module, attention: nn.Module, exit_name: str, family: str, num_heads: int) -> Part:
    """Return the heads of attention over latents, which all heads share and which stay as they are."""
    modules = dict(attention.named_children())
    query = next((name for name in LATENT_QUERIES if name in modules), "")
    if not query:
        raise ValueError(f"{family}: no queries of a known form; {KEPT_HEADS}")
    matrices = [_matrix(modules[name], name, family) for name in (query, LATENT_KEYS, exit_name)]
    latents = [module for name, module in modules.items() if name.endswith(LATENT_PARTS)]
    known = {id(parameter) for module in (*matrices, *latents) for parameter in module.parameters()}
    _refuse_others(attention, known, f"{family}: attention", KEPT_HEADS)
    rows = tuple(_rows(matrix, num_heads, family) for matrix in matrices[:2])
    return Part(num_heads, rows, matrices[-1], num_inputs(matrices[-1]) // num_heads, block)


def _rows(matrix: Matrix, num_units: int, family: str) -> Rows:
    if num_outputs(matrix) % num_units:
        raise ValueError(
            f"{family}: {num_outputs(matrix)} outputs are not those of {num_units} equal heads; {KEPT_HEADS}"
        )
    return Rows(matrix, 0, num_outputs(matrix) // num_units)


def _vectors(
    attention: nn.Module, known: set[int], num_heads: int, num_groups: int, head_dim: int, family: str
) -> tuple[Vector, ...]:
    """Return sinks and norms with a row for each head, and note norms over a single head as known. Refuses norms over all heads."""
    vectors = []
    for path, module in attention.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            where = _within(path, name)
            if id(parameter) in known:
                continue
            is_norm = path.startswith(("q_", "k_", "query_", "key_"))
            if is_norm and parameter.ndim == 1 and parameter.numel() not in (1, head_dim):
                raise ValueError(f"{family}: {path} is taken over all heads, which would change it; {KEPT_HEADS}")
            if (
                parameter.ndim
                and parameter.shape[0] in (num_heads, num_groups)
                and (parameter.ndim == 2 or not is_norm)
            ):
                vectors.append(Vector(module, name, parameter.shape[0] // num_groups))
                known.add(id(parameter))
            elif is_norm and where and parameter.numel() == head_dim:
                known.add(id(parameter))
    return tuple(vectors)


def _refuse_others(module: nn.Module, known: set[int], where: str, refusal: str) -> None:
    """Refuse a parameter we do not know (routers, gates). It may follow the units: better no model than a wrong one. A single number does not."""
    for name, parameter in module.named_parameters():
        if id(parameter) not in known and parameter.numel() > 1:
            raise ValueError(f"{where} has {name} of shape {tuple(parameter.shape)}, which is not known; {refusal}")


def _same_width(parts: Sequence[Part], model: PreTrainedModel, what: str) -> list[Part]:
    counts = sorted({part.num_units for part in parts})
    if len(counts) > 1:
        raise ValueError(
            f"{_family(model)}: its blocks have {counts[0]} to {counts[-1]} {what}; one number is expected"
        )
    return list(parts)


def _matrix(module: nn.Module, name: str, family: str) -> Matrix:
    from transformers.pytorch_utils import Conv1D  # a second that a plan need not wait for

    if not isinstance(module, nn.Linear | Conv1D):
        raise ValueError(f"{family}: {name} is a {type(module).__name__}, not a plain matrix; it cannot be narrowed")
    return module


def _family(model: PreTrainedModel) -> str:
    return type(model).__name__
