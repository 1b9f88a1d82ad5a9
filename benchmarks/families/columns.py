"""The four things that are asked of every family, each proved by logits: depth, width, patch and refit, export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attar.compressors.export.parity import listen_to, measure_parity
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.models.blocks import decoder_blocks, remove_blocks
from attar.compressors.models.bypass import handing_on
from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.skeleton import check_cut
from attar.compressors.prune.depth.block_refit import Matches, refit_blocks
from attar.compressors.prune.depth.patch import PatchFit, fold_patch
from attar.compressors.prune.width.cut import config_changes, cut_width, silenced
from attar.compressors.prune.width.layout import attention_parts, feed_forward_parts
from attar.stages.artifacts.model.proof import check_kept, kept_logits, prove_written
from attar.stages.artifacts.onnx_folder import write_graph
from attar.stages.artifacts.onnx_session import open_session

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Build = Callable[[], Any]
CPU = torch.device("cpu")
# Cuts that are tried in this order; a family that takes only a later one is said to.
CUTS = ((1,), (5,))
PROMPTS = ([5, 6, 7], [9, 10, 11, 12, 13, 14], [20])
NUM_NEW_TOKENS = 12
# float32, two orders of summation; logits of these models are about 1
MAX_LOGIT_DIFFERENCE = 2e-3


def depth(build: Build, folder: Path) -> str:
    """Remove a block as the stage `prune` does, with its proof on what was written."""
    reasons = []
    for removed in CUTS:
        try:
            _cut_depth(build(), removed, folder / f"without{removed[0]}")
        except ValueError as refusal:
            reasons.append(str(refusal))
        else:
            return "ok" if not reasons else f"last blocks alone: {reasons[0]}"
    raise ValueError(reasons[0])


def _cut_depth(model: PreTrainedModel, removed: Sequence[int], folder: Path) -> None:
    check_cut(model, removed)
    with handing_on(model, removed):
        expected = kept_logits(model, "prune")
    remove_blocks(model, removed)
    check_kept(model, expected, "prune")
    _prove(model, expected, "prune", folder)


def width(build: Build, folder: Path) -> str:
    """Halve the channels, then the KV groups, of every block as the stage `narrow` does, with its proof on what was written."""
    works, reasons = [], []
    for what, option, find in (
        ("channels", "channels", feed_forward_parts),
        ("KV groups", "groups", attention_parts),
    ):
        try:
            _cut_width(build(), option, find, folder / option)
        except ValueError as refusal:
            reasons.append(str(refusal))
        else:
            works.append(what)
    if not works:
        raise ValueError("; ".join(dict.fromkeys(reasons)))
    return "ok" if not reasons else f"{works[0]}: {reasons[0]}"


def _cut_width(model: PreTrainedModel, option: str, find: Callable[[Any], list[Any]], folder: Path) -> None:
    parts = find(model)
    num_kept = parts[0].num_units // 2
    draw = torch.Generator().manual_seed(0)
    units = [torch.randperm(part.num_units, generator=draw)[:num_kept].sort().values for part in parts]
    config_changes(model, **{f"num_{option}": num_kept})  # type: ignore[arg-type]
    before = kept_logits(model, "narrow")
    with silenced(model, **{option: units}):
        expected = kept_logits(model, "narrow")
    assert not torch.equal(before, expected), "what is removed did nothing: the proof would prove nothing"
    cut_width(model, **{option: units})
    check_kept(model, expected, "narrow")
    _prove(model, kept_logits(model, "narrow"), "narrow", folder)


def patch(build: Build, folder: Path) -> str:
    """Repair the cut of block 2 by the linear map, and by the refit of all later blocks; both nearer to the original than the bare cut."""
    works, reasons = [], []
    for what, repair in (("linear", _linear), ("refit", _refit)):
        try:
            repair(build, folder / what)
        except ValueError as refusal:
            reasons.append(str(refusal))
        else:
            works.append(what)
    if not works:
        raise ValueError("; ".join(dict.fromkeys(reasons)))
    return "ok" if not reasons else f"{works[0]}: {reasons[0]}"


def _linear(build: Build, folder: Path) -> None:
    original, model = build(), build()
    check_cut(model, [2])
    fit = PatchFit(1, [2])
    for ids in _batches(original):
        fit.update(original, ids, torch.ones_like(ids))
    patched = fit.solve(2, ridge=1e-2)
    fold_patch(model, patched)
    remove_blocks(model, [2])
    _check_nearer(original, _bare(build), model, "linear")
    _prove(model, kept_logits(model, "prune"), "prune", folder)


def _refit(build: Build, folder: Path) -> None:
    original, model = build(), build()
    check_cut(model, [2])
    matches = Matches.of_removed(len(decoder_blocks(model)), [2])
    remove_blocks(model, [2])
    batches = [(ids, torch.ones_like(ids)) for ids in _batches(original)]
    list(refit_blocks(original, model, batches, matches, ridge=1e-2, first=matches.first))
    _check_nearer(original, _bare(build), model, "refit")
    _prove(model, kept_logits(model, "prune"), "prune", folder)


def _bare(build: Build) -> Any:
    model = build()
    remove_blocks(model, [2])
    return model


@torch.no_grad()
def _check_nearer(original: Any, bare: Any, repaired: Any, what: str) -> None:
    """Raise ValueError unless the repaired model is nearer to the original than the bare cut, on what it was fitted on."""
    ids = torch.cat(_batches(original))
    wanted, cut, mended = (model(input_ids=ids, use_cache=False).logits for model in (original, bare, repaired))
    bare_error, error = (float((logits - wanted).square().mean()) for logits in (cut, mended))
    if not error < bare_error:
        raise ValueError(
            f"{what}: the repaired logits are {error:.3g} from the original's, the bare cut's {bare_error:.3g}"
        )


def _batches(model: Any) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(3, model.config.vocab_size, (16, 24), generator=draw) for _ in range(4)]


def export(build: Build, folder: Path) -> str:
    """Write the ONNX graph and compare it in ONNX Runtime: prefill, a padded batch, decoding over the cache."""
    from attar.compressors.export.graph import export_graph  # its libraries are in an extra

    model = build()
    folder.mkdir(parents=True, exist_ok=True)
    write_graph(export_graph(model), folder)
    runner = OnnxRunner(open_session(folder))
    answers = listen_to(runner, PROMPTS, folder / "listened", num_new_tokens=NUM_NEW_TOKENS)
    parity = measure_parity(answers, TorchRunner(model))
    if parity.token_agreement < 1.0 or parity.max_logit_difference > MAX_LOGIT_DIFFERENCE:
        raise ValueError(
            f"the graph is not the model: logits {parity.max_logit_difference:.2g} apart, {parity.token_agreement:.0%} of the tokens"
        )
    return "ok"


def _prove(model: PreTrainedModel, expected: Tensor, what: str, folder: Path) -> None:
    model.save_pretrained(folder)
    prove_written(folder, expected, what, CPU)


COLUMNS: dict[str, Callable[[Build, Path], str]] = {"depth": depth, "width": width, "patch": patch, "export": export}
