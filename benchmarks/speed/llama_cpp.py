"""llama.cpp as one of the models that take turns: node-llama-cpp in a process of its own, a request a line. No script."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from attar.stages.artifacts.gguf.ggml_library import INSTALL, LLAMA_CPP_FOLDER

# As a user has it: a cache in halves, no flash attention. An end of generation does not end a timing.
PROGRAM = """
import { createInterface } from "node:readline";
import { getLlama } from "node-llama-cpp";
process.execArgv.splice(0);  // the library forks to try itself, and a fork would evaluate this again
let context = null;
for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  if (context === null) {
    const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, usePrebuiltBinaries: true,
      maxThreads: asked.threads, logLevel: "error" });
    const model = await llama.loadModel({ modelPath: asked.model });
    context = await model.createContext({ contextSize: 1024, batchSize: 512, threads: asked.threads });
    context.own = context.getSequence();
  }
  await context.own.clearHistory();
  const started = performance.now();
  let prefilled = 0, last = 0, count = 0;
  for await (const id of context.own.evaluate(asked.prompt, { temperature: 0, yieldEogToken: true })) {
    last = performance.now();
    if (!count) prefilled = last;
    if (++count > asked.tokens) break;
  }
  console.log(JSON.stringify({ prefill: (prefilled - started) / 1000, decode: (last - prefilled) / 1000, count }));
}
process.exit(0);
"""


class LlamaCpp:
    """A GGUF file open in llama.cpp. Times a prompt and the tokens behind it; says the process's peak memory."""

    def __init__(self, model: Path) -> None:
        folder, node = Path(os.environ.get(LLAMA_CPP_FOLDER, "")), shutil.which("node")
        if node is None or not (folder / "node_modules").is_dir():
            raise SystemExit(f"llama.cpp is not there: {INSTALL}")
        self._model = model
        self._process = subprocess.Popen(
            [node, "--input-type=module", "--eval", PROGRAM],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def time_once(self, prompt: torch.Tensor, num_new_tokens: int) -> tuple[float, float]:
        """Return seconds to read a prompt (1, T), and seconds a token behind it. Raises ValueError where the process ends."""
        request = {
            "model": str(self._model),
            "prompt": prompt[0].tolist(),
            "tokens": num_new_tokens,
            "threads": torch.get_num_threads(),
        }
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        while line := self._process.stdout.readline():
            if line.startswith('{"prefill"'):
                answer = json.loads(line)
                return float(answer["prefill"]), float(answer["decode"]) / (answer["count"] - 1)
        raise ValueError(f"llama.cpp ended on {self._model.name}")

    def peak_bytes(self) -> int:
        """Return the most memory that the process held, its runtime included."""
        return peak_bytes(self._process.pid)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
