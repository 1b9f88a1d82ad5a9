"""The same adapters are the same bytes in every process, whatever order its hashes give to PEFT's sets."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import torch

TARGETS = ("up_proj", "down_proj", "q_proj", "v_proj")
ORDER = f"print(*set({TARGETS!r}))"


def write(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model  # seconds, in the other process too

    from attar.stages.artifacts.adapter_files import write_adapters

    torch.manual_seed(0)
    model = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in TARGETS})
    write_adapters(get_peft_model(model, LoraConfig(r=1, target_modules=list(TARGETS))), "f" * 64, folder)


def other_seed() -> str:
    """Return a seed of hashes that gives another order than this process's."""
    for seed in map(str, itertools.count(1)):
        other = subprocess.run(
            [sys.executable, "-c", ORDER], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        if other.stdout.decode().split() != list(set(TARGETS)):
            return seed
    raise AssertionError


def test_adapters_written_under_other_hashes_are_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "here")
    own = os.environ | {"PYTHONHASHSEED": other_seed(), "PYTHONPATH": os.getcwd()}
    # where bitsandbytes is not installed PEFT does not import it, and with it half of torch's compiler
    script = "import sys; sys.modules['bitsandbytes'] = None; from pathlib import Path; from tests.unit.stages.test_adapter_files import write; write(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "there")], env=own, check=True, capture_output=True)
    for folder in (tmp_path / "here", tmp_path / "there"):
        assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    here, there = ((tmp_path / name / "adapter_config.json").read_bytes() for name in ("here", "there"))
    assert here == there
