"""Cut a model's rows of the vocabulary: embedding, head, its bias, and whatever else the family's config sizes by it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.measure.same_logits import probe_ids
from attar.compressors.models.skeleton import as_read, put_tensors, stored_tensors
from attar.compressors.prune.vocabulary.renumber import SIZES, renumbered, resized

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What a module notes of the vocabulary when it is built.
NOTED = ("num_embeddings", "padding_idx", "out_features", "vocab_size", "vocab_size_per_layer_input")


def num_rows(model: PreTrainedModel) -> int:
    """Return the rows of the embedding. Raises ValueError for a model without a head over the same rows."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    family = type(model).__name__
    if not isinstance(embedding, nn.Embedding) or not isinstance(head, nn.Linear):
        raise ValueError(f"{family}: its embedding or its head is no plain matrix; its vocabulary cannot be cut")
    if embedding.num_embeddings != head.out_features:
        raise ValueError(
            f"{family}: its embedding has {embedding.num_embeddings} rows, its head {head.out_features}; equal numbers are expected"
        )
    return embedding.num_embeddings


def cut_vocabulary(model: PreTrainedModel, kept_ids: Sequence[int]) -> None:
    """Keep these rows of the vocabulary, in this order, in place. Ids in the config and the generation config are those of now.

    A model built from the changed config tells which tensors are sized by the vocabulary. Raises ValueError, before anything is
    changed, when these are not embedding and head, or differ in more than their first dimension.
    """
    rows, family = num_rows(model), type(model).__name__
    _check_sizes(model, rows, len(kept_ids))
    new_ids = {old: new for new, old in enumerate(kept_ids)}
    skeleton = _skeleton(model, rows, new_ids)
    index = torch.as_tensor(list(kept_ids), dtype=torch.long, device=model.device)
    tensors, shapes = stored_tensors(model), {name: tensor.shape for name, tensor in stored_tensors(skeleton).items()}
    if tensors.keys() != shapes.keys():
        raise ValueError(f"{family}: a model of another vocabulary has other tensors; its vocabulary cannot be cut")
    cut: dict[int, nn.Parameter] = {}
    for name, tensor in tensors.items():
        if tensor.shape == shapes[name]:
            continue
        if (tensor.shape[0], *tensor.shape[1:]) != (rows, *shapes[name][1:]) or shapes[name][0] != len(index):
            raise ValueError(
                f"{family}: {name} would be {tuple(shapes[name])}, not rows of {tuple(tensor.shape)}; not cut"
            )
        if id(tensor) not in cut:
            cut[id(tensor)] = _rows_of(tensor, index)
    _refuse_whole_tables(model, cut, len(index))
    put_tensors(model, skeleton, cut, NOTED)
    _write_config(model, rows, new_ids)


def _check_sizes(model: PreTrainedModel, rows: int, num_kept: int) -> None:
    """Raise ValueError where a table of the config has other rows than the embedding: the same ids would not cut it."""
    if not 0 < num_kept < rows:
        raise ValueError(f"{num_kept} of {rows} rows of the vocabulary are to stay; accepted: 1 to {rows - 1}")
    values = model.config.get_text_config().to_dict()
    for name in SIZES:
        if isinstance(values.get(name), int) and values[name] != rows:
            raise ValueError(
                f"{type(model).__name__}: {name} is {values[name]}, but its embedding has {rows} rows; equal numbers are expected"
            )


def kept_logprobs(model: PreTrainedModel, kept_ids: Sequence[int]) -> Float[Tensor, "B T K"]:
    """Return what a whole model says of the probe over the kept tokens alone, renormalised. The cut model must say the same."""
    index = torch.as_tensor(list(kept_ids), dtype=torch.long, device=model.device)
    return _logits(model, index[probe_ids(len(index), model.device)])[..., index].log_softmax(dim=-1).cpu()


def probe_logprobs(model: PreTrainedModel) -> Float[Tensor, "B T K"]:
    """Return what a cut model says of the same probe."""
    return _logits(model, probe_ids(model.config.vocab_size, model.device)).log_softmax(dim=-1).cpu()


@torch.no_grad()
def _logits(model: PreTrainedModel, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float()


def _skeleton(model: PreTrainedModel, rows: int, new_ids: dict[int, int]) -> PreTrainedModel:
    config = copy.deepcopy(model.config)
    _change(config, rows, new_ids)
    try:
        with torch.device("meta"):
            return type(model)(as_read(config))
    except Exception as error:  # a config class may raise anything
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{type(model).__name__}: its config cannot say {len(new_ids)} tokens: {reason}") from error


def _rows_of(tensor: Tensor, index: Int[Tensor, "K"]) -> nn.Parameter:
    rows = tensor.detach()[index.to(tensor.device)].contiguous()
    return nn.Parameter(rows, requires_grad=tensor.requires_grad)


def _refuse_whole_tables(model: PreTrainedModel, cut: dict[int, nn.Parameter], num_tokens: int) -> None:
    tables: tuple[Any, ...] = (model.get_input_embeddings(), model.get_output_embeddings())
    for table in tables:
        if id(table.weight) not in cut and table.weight.shape[0] != num_tokens:
            raise ValueError(
                f"{type(model).__name__}: its config does not size its {type(table).__name__} of tokens; not cut"
            )


def _write_config(model: PreTrainedModel, rows: int, new_ids: dict[int, int]) -> None:
    _change(model.config, rows, new_ids)
    generation = model.generation_config
    if generation is not None:
        for name, value in renumbered(generation.to_dict(), new_ids).items():
            setattr(generation, name, value)


def _change(config: Any, rows: int, new_ids: dict[int, int]) -> None:
    """Change sizes and ids of a config and of the text config within, where it has one."""
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        values = part.to_dict()
        for name, value in (resized(values, rows, len(new_ids)) | renumbered(values, new_ids)).items():
            setattr(part, name, value)
