"""Prove what a merge wrote. The files hold the merged tensors to the bit, and the model that others load from them holds these."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from attar.registry.artifacts.environment import available_memory_bytes
from attar.stages.artifacts.model.proof import check_cache, load_whole
from attar.stages.artifacts.model.tensor_files import TensorInfo, read_tensor, tensor_crc, tensor_infos
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import metric, note

# Of the weights' bytes: what a loaded model and its passes over a few short texts take.
ROOM = 1.25


def prove_merged(folder: Path, digests: Mapping[str, int]) -> None:
    """Compare the written tensors with `digests`, those of the tensors in memory. Load the folder as anyone would, where memory has room.

    Raises ValueError in one line that names the tensor, or says that the model does not load or decode.
    """
    infos = tensor_infos(folder)
    for name in sorted(infos.keys() | digests.keys()):
        if name not in infos or tensor_crc(read_tensor(name, infos[name])) != digests.get(name):
            raise ValueError(f"merge: {name} in the written files is not what was merged; is the disk sound?")
    num_bytes = sum(info.num_bytes for info in infos.values())
    give_back()
    room = available_memory_bytes()
    if room and room < ROOM * num_bytes:
        note(
            f"the merged model ({num_bytes / 1e9:.1f} GB) was not loaded to try it: {room / 1e9:.1f} GB of memory are free; "
            "its tensors are in the files to the bit"
        )
        return
    device = pick_device()
    model = load_whole(folder, "merge", device)
    _compare(model.state_dict(), infos)
    cached = check_cache(model, folder, "merge", device)
    metric("proof_cache_error", cached)
    note(
        f"proved: {len(infos)} tensors are in the files to the bit, load whole, and decode alike with and without a cache"
    )


def _compare(state: Mapping[str, torch.Tensor], infos: Mapping[str, TensorInfo]) -> None:
    """Compare loaded tensors with the file's. Those that a family calls otherwise in files are covered by the loading report alone."""
    for name in state.keys() & infos.keys():
        stored = read_tensor(name, infos[name])
        loaded = state[name].to("cpu")
        if loaded.shape != stored.shape or not torch.equal(loaded, stored.to(loaded.dtype)):
            raise ValueError(f"merge: {name} loads as other numbers than the written file holds")
