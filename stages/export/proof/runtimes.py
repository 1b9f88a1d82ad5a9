"""Programs that people run models with, each in a process of its own: llama.cpp by node-llama-cpp, and OpenVINO GenAI."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attar.registry.artifacts.environment import num_cores
from attar.stages.artifacts.gguf.ggml_library import INSTALL, LLAMA_CPP_FOLDER

TIMEOUT_SECONDS = 1800
# Greedy ids by the low-level call: no text, no template, no sampling between torch's tokens and its. It ends at an end of generation.
LLAMA_CPP_PROGRAM = """
import { readFileSync } from "node:fs";
import { getLlama } from "node-llama-cpp";
process.execArgv.splice(0);  // the library forks to try itself, and a fork would evaluate this again
const asked = JSON.parse(readFileSync(0, "utf8"));
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, usePrebuiltBinaries: true,
  maxThreads: asked.threads, logLevel: "error" });
const model = await llama.loadModel({ modelPath: asked.model });
const written = [];
for (const prompt of asked.prompts) {
  // a cache in halves, the usual one, would round keys and values that torch does not
  const context = await model.createContext({ contextSize: prompt.length + asked.tokens + 8, threads: asked.threads,
    flashAttention: false, experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32" });
  const ids = [];
  let first = 0;
  for await (const id of context.getSequence().evaluate(prompt, { temperature: 0 })) {
    if (!first) first = performance.now();
    ids.push(id);
    if (ids.length === asked.tokens) break;
  }
  const seconds = ids.length > 1 ? (performance.now() - first) / 1000 / (ids.length - 1) : 0;
  written.push({ ids, seconds_per_token: seconds });
  await context.dispose();
}
console.log(JSON.stringify(written));
process.exit(0);
"""
# Sums and cache in float32: by itself OpenVINO takes what the processor is quick at, and a cache in 8 bits.
OPENVINO_EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}
OPENVINO_PROGRAM = """
import json, sys
import numpy, openvino, openvino_genai
asked = json.load(sys.stdin)
pipeline = openvino_genai.LLMPipeline(asked["model"], "CPU", INFERENCE_NUM_THREADS=asked["threads"], **asked["exact"])
config = openvino_genai.GenerationConfig()
config.max_new_tokens, config.ignore_eos, config.apply_chat_template, config.do_sample = asked["tokens"], True, False, False
written = []
for prompt in asked["prompts"]:
    result = pipeline.generate(openvino.Tensor(numpy.array([prompt], dtype=numpy.int64)), config)
    ids = [int(token) for token in result.tokens[0]]
    written.append({"ids": ids, "seconds_per_token": result.perf_metrics.get_tpot().mean / 1000})
print(json.dumps(written))
"""


@dataclass(frozen=True)
class Runtime:
    """A program that runs models.

    `command`: how it is started; None where it is not there. `install`: how to get it. `matrix_types`: of a GGUF file, the types of matrices
    that it opens; None: all.
    """

    name: str
    command: Callable[[], tuple[list[str], Path] | None]
    install: str
    matrix_types: frozenset[str] | None = None


@dataclass(frozen=True)
class RuntimeText:
    """What a runtime wrote to one prompt, greedily, and the time a token took behind the first."""

    token_ids: tuple[int, ...]
    seconds_per_token: float


def _llama_cpp() -> tuple[list[str], Path] | None:
    given, node = os.environ.get(LLAMA_CPP_FOLDER, ""), shutil.which("node")
    folder = Path(given).expanduser()
    if not given or node is None or not (folder / "node_modules" / "node-llama-cpp").is_dir():
        return None
    return [node, "--input-type=module", "--eval", LLAMA_CPP_PROGRAM], folder


def _openvino() -> tuple[list[str], Path] | None:
    names = ("openvino", "openvino_genai", "openvino_tokenizers")
    if any(importlib.util.find_spec(name) is None for name in names):
        return None
    return [sys.executable, "-c", OPENVINO_PROGRAM], Path.cwd()


LLAMA_CPP = Runtime("llama.cpp", _llama_cpp, INSTALL)
# Tried with files of each type, openvino-genai 2026.4.1: it says "unsupported quantization type" of floats in 32 bits and of bfloat16.
OPENVINO_TYPES = frozenset({"f16", "q8_0", "q6_k", "q4_1", "q4_k", "q4_0"})
OPENVINO = Runtime("openvino-genai", _openvino, "pip install 'attar[openvino]'", OPENVINO_TYPES)


def run_prompts(
    runtime: Runtime, model: Path, prompts: Sequence[Sequence[int]], num_new_tokens: int
) -> list[RuntimeText] | None:
    """Return what a runtime writes to each prompt; None where it is not installed. Raises ValueError where it does not open the file."""
    started = runtime.command()
    if started is None:
        return None
    command, folder = started
    request = {
        "model": str(model),
        "prompts": [list(prompt) for prompt in prompts],
        "tokens": num_new_tokens,
        "threads": num_cores(),
        "exact": OPENVINO_EXACT,
    }
    done = subprocess.run(
        command,
        cwd=folder,
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or not lines:
        errors = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = next(
            (line for line in errors if "rror" in line), errors[-1] if errors else f"exit code {done.returncode}"
        )
        raise ValueError(f"{runtime.name} does not run {model.name}: {reason[:300]}")
    return [RuntimeText(tuple(text["ids"]), float(text["seconds_per_token"])) for text in json.loads(lines[-1])]
