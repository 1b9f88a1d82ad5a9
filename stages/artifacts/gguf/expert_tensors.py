"""Experts, which folders hold one by one or joined. In memory they are joined otherwise, in a file three tensors a block."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from attar.stages.artifacts.model.tensor_files import TensorInfo

# `...experts.7.w1.weight`: one projection of one expert.
EXPERT = re.compile(r"(?P<prefix>.+\.experts)\.(?P<expert>\d+)\.(?P<projection>\w+)\.weight")
# Granite's folders hold gate and up of all experts in one tensor, the gate's rows first.
GATE_AND_UP = re.compile(r"(?P<prefix>.+\.block_sparse_moe)\.input_linear\.weight")
BLOCK_NUMBER = re.compile(r"\.layers\.(\d+)\.")
# Names under which gguf-py's table has the projections of all experts.
GATE, UP, DOWN = "gate_proj", "up_proj", "down_proj"


@dataclass(frozen=True)
class Rows:
    """Rows of a tensor in a folder, from the first or from `first` on. `expert`: whose, of a tensor that joins all of them too."""

    source: str
    path: Path
    shape: tuple[int, ...]
    expert: int | None = None
    first: int = 0

    @property
    def num_rows(self) -> int:
        """How many rows."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return self.shape[1] if len(self.shape) > 1 else 1

    def chunks(self, part: Any, step: int) -> Iterator[Tensor]:
        """Yield the rows, `step` at a time. `part`: the slice of the opened tensor that safetensors gives."""
        for start in range(self.first, self.first + self.num_rows, step):
            end = min(start + step, self.first + self.num_rows)
            is_joined = self.expert is not None and EXPERT.fullmatch(self.source) is None
            yield part[self.expert, start:end] if is_joined else part[start:end]


def joined_experts(infos: Mapping[str, TensorInfo]) -> dict[str, tuple[Rows, ...]]:
    """Return a folder's tensors by the names of gguf-py's table, the experts of a projection as one in their order."""
    joined: dict[str, list[Rows]] = {}
    for source, info in infos.items():
        alone, both = EXPERT.fullmatch(source), GATE_AND_UP.fullmatch(source)
        if alone:
            name = f"{alone['prefix']}.{alone['projection']}.weight"
            joined.setdefault(name, []).append(Rows(source, info.path, info.shape, int(alone["expert"])))
        elif both:
            num_experts, num_rows, width = info.shape
            for index, projection in enumerate((GATE, UP)):
                name = f"{both['prefix'].replace('block_sparse_moe', 'mlp')}.experts.{projection}.weight"
                half = num_rows // 2
                joined[name] = [
                    Rows(source, info.path, (half, width), expert, index * half) for expert in range(num_experts)
                ]
        elif len(info.shape) == 3:
            joined[source] = [Rows(source, info.path, info.shape[1:], expert) for expert in range(info.shape[0])]
        else:
            joined[source] = [Rows(source, info.path, info.shape)]
    return {name: tuple(sorted(rows, key=lambda part: part.expert or 0)) for name, rows in joined.items()}


def file_names(parameter: str, names: Callable[[str], str | None]) -> list[str]:
    """Return the tensors of a file that make a parameter in memory, one below the other. Empty: a file has no name for it."""
    block = BLOCK_NUMBER.search(parameter)
    if block and parameter.endswith(".experts.gate_up_proj"):
        return [f"blk.{block[1]}.ffn_gate_exps.weight", f"blk.{block[1]}.ffn_up_exps.weight"]
    if block and parameter.endswith(".experts.down_proj"):
        return [f"blk.{block[1]}.ffn_down_exps.weight"]
    name = names(parameter) or names(parameter.replace(".router.weight", ".router.layer.weight"))
    return [name] if name else []
