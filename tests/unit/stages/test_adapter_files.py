"""The same adapters are the same bytes in every process, whatever order its hashes give to PEFT's sets."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path
sys.modules["bitsandbytes"] = None  # as where it is not installed: PEFT would import it, and it half of torch's compiler
import torch
from peft import LoraConfig, get_peft_model
from attar.stages.artifacts.adapter_files import write_adapters

class Four(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name in ("up_proj", "down_proj", "q_proj", "v_proj"):
            setattr(self, name, torch.nn.Linear(2, 2))

torch.manual_seed(0)
targets = ["up_proj", "down_proj", "q_proj", "v_proj"]
write_adapters(get_peft_model(Four(), LoraConfig(r=1, target_modules=targets)), "f" * 64, Path(sys.argv[1]))
"""


def test_adapters_written_under_other_hashes_are_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for seed in ("1", "2"):
        folder = tmp_path / seed
        own = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.getcwd()}
        subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], env=own, check=True, capture_output=True)
        digests.add(hashlib.sha256((folder / "adapter_config.json").read_bytes()).hexdigest())
        assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert len(digests) == 1
