"""Write trained adapters as PEFT's files, the same bytes for the same adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIG = "adapter_config.json"
# PEFT keeps these as sets and writes them in the order of their hashes, which differs in every process.
SETS = ("target_modules", "modules_to_save", "exclude_modules", "target_parameters")


def write_adapters(model: Any, base_fingerprint: str, folder: Path) -> None:
    """Write a PEFT model's adapters. The base is named by content: a path would tie them to this machine."""
    model.peft_config["default"].base_model_name_or_path = f"attar:{base_fingerprint}"
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / CONFIG).read_text())
    config |= {name: sorted(config[name]) for name in SETS if isinstance(config.get(name), list)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True))
