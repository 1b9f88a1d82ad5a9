"""Folders that Attar writes say the same model to transformers 4.57 and 5: logits and token ids, family by family."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from attar.stages.artifacts.model.folder import load_model, load_tokenizer, save_model
from attar.stages.artifacts.model.older_form import READ_BY_BOTH, readers_of, write_older_tokenizer
from attar.stages.ingest.tiny_model import FAMILIES, byte_tokenizer, tiny_config
from tests.system.campaign.ledger import note_scenario

pytestmark = pytest.mark.slow

# With torch and the rest of this environment; what of it transformers 4 takes in older versions comes beside it.
OLDER = ("transformers==4.57.3", "huggingface_hub==0.36.0", "tokenizers==0.22.1")
OTHERS = ("gemma", "mixtral", "glm", "stablelm", "phi", "cohere2", "starcoder2")
LLAMA3 = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 128}
LONG = {"short_factor": [1.1] * 8, "long_factor": [2.0] * 8, "original_max_position_embeddings": 16}
SCALED = {
    "llama llama3": ("llama", {"rope_type": "llama3", **LLAMA3}),
    "llama linear": ("llama", {"rope_type": "linear", "factor": 4.0}),
    "qwen2 yarn": ("qwen2", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}),
    "gemma3 linear": ("gemma3", {"rope_type": "linear", "factor": 8.0}),
    "phi3 longrope": ("phi3", {"rope_type": "longrope", **LONG}),
    "olmo2 linear": ("olmo2", {"rope_type": "linear", "factor": 4.0}),
}
TEXT = "Rope 500 turns: <|im_end|> naïve"
# The same float32 numbers added in another order. Gemma 2's libraries differ by more of themselves: 0.012 was seen at a largest logit of 6.
TOLERANCES = {"gemma2": 5e-2}
READER = """
import json, sys, torch, transformers
transformers.logging.set_verbosity_error()
assert transformers.__version__.startswith("4.57"), transformers.__version__
for folder, text in json.loads(sys.stdin.read()):
    model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), (folder, report)
    with torch.no_grad():
        logits = model.eval()(torch.arange(40)[None] * 5 % 250 + 3).logits
    ids = transformers.AutoTokenizer.from_pretrained(folder)(text).input_ids
    torch.save({"logits": logits, "ids": ids}, folder + ".older.pt")
"""


@pytest.fixture(scope="module")
def older_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """transformers 4.57 in a folder of its own; without a package index the test has nothing to compare with."""
    target = tmp_path_factory.mktemp("older")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), *OLDER]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no transformers 4.57 to be had: {done.stderr[-200:]}")
    return target


def config_of(family: str, scaling: dict[str, Any]) -> Any:
    """The family's config with rope bases that nobody would guess, by the kind of layer where the family has kinds."""
    tokenizer = byte_tokenizer()
    if family in FAMILIES:
        config = tiny_config(family, num_blocks=6, hidden_size=64, tokenizer=tokenizer)
    else:
        sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
        sizes |= {"intermediate_size": 128, "max_position_embeddings": 1024, "vocab_size": len(tokenizer)}
        ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        heads = {} if family in ("phi", "stablelm") else {"head_dim": 16}
        config = AutoConfig.for_model(family, **sizes, **ends, **heads, initializer_range=0.15)
    rope = getattr(config, "rope_parameters", None)
    if rope and "rope_theta" in rope:
        config.rope_parameters = rope | scaling | {"rope_theta": 500.0}
        if scaling.get("rope_type") == "longrope":
            config.original_max_position_embeddings = scaling["original_max_position_embeddings"]
    elif rope:
        full = {"rope_type": "default"} | scaling | {"rope_theta": 5000.0}
        config.rope_parameters = {
            "full_attention": full,
            "sliding_attention": {"rope_type": "default", "rope_theta": 77.0},
        }
    return config


def write(folder: Path, family: str, scaling: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family, scaling), dtype=torch.float32).eval()
    save_model(model, folder)
    byte_tokenizer().save_pretrained(folder)
    write_older_tokenizer(folder)
    return folder


def read_older(packages: Path, folders: list[Path]) -> None:
    subprocess.run(
        [sys.executable, "-c", READER],
        input=json.dumps([[str(folder), TEXT] for folder in folders]),
        env={**os.environ, "PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1"},
        text=True,
        check=True,
    )


def test_every_family_that_the_card_names_reads_alike_in_both(older_packages: Path, tmp_path: Path) -> None:
    cases = {family: (family, {}) for family in (*FAMILIES, *OTHERS)} | SCALED
    assert {FAMILIES.get(family, family) for family, _ in cases.values()} == READ_BY_BOTH
    folders = {name: write(tmp_path / name.replace(" ", "_"), *case) for name, case in cases.items()}
    read_older(older_packages, list(folders.values()))
    apart = {}
    for name, folder in folders.items():
        older = torch.load(f"{folder}.older.pt")
        with torch.no_grad():
            newer = load_model(folder, "float32")(torch.arange(40)[None] * 5 % 250 + 3).logits
        assert load_tokenizer(folder)(TEXT).input_ids == older["ids"], name
        assert readers_of(folder) == "transformers 4.57 or 5", name
        difference = float((newer - older["logits"]).abs().max())
        if difference > TOLERANCES.get(name, 1e-4):
            apart[name] = difference
    assert not apart
    note_scenario("folders read alike by transformers 4.57 and 5", cases=sorted(folders))


def test_without_the_older_names_4_reads_another_model_and_the_card_says_so(
    older_packages: Path, tmp_path: Path
) -> None:
    folder = write(tmp_path / "llama", "llama", {})
    config = json.loads((folder / "config.json").read_text())
    del config["rope_theta"]
    (folder / "config.json").write_text(json.dumps(config))
    assert readers_of(folder) == f"transformers {config['transformers_version']} or newer"
    read_older(older_packages, [folder])
    with torch.no_grad():
        newer = load_model(folder, "float32")(torch.arange(40)[None] * 5 % 250 + 3).logits
    assert float((newer - torch.load(f"{folder}.older.pt")["logits"]).abs().max()) > 0.1
