"""Stage `compose_tasks`: the model writes its own coding instructions from seed snippets, and answers that pass the tests it wrote."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from attar.compressors.data.code_tasks import (
    SHOTS,
    Shot,
    Solved,
    concepts_prompt,
    instruction_prompt,
    property_of,
    response_prompt,
    solved,
)
from attar.compressors.data.prompts import chat_prompt
from attar.compressors.models.sampling import Sampling
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.kinds.kind_facts import DatasetFacts
from attar.stages.artifacts.dataset.card import write_card
from attar.stages.artifacts.dataset.partial_rows import by_shard
from attar.stages.artifacts.dataset.rows import Row, read_rows, write_rows
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.samplers import Prompt, RunnerSampler, row_seed
from attar.stages.artifacts.work_forecast import rows_alike
from attar.stages.artifacts.writers import open_runner, stop_ids_of
from attar.stages.contract import Forecast, StageConfig, stage
from attar.stages.runtime.device import Precision
from attar.stages.runtime.progress import metric, note
from attar.stages.runtime.sandbox import required_guard, run_tests
from attar.stages.runtime.watched_process import Limits

# Snippets whose tasks are written and tested together: what a crash can cost.
NUM_TOGETHER = 16
COMPOSED = "composed (passes its own tests)"


class ComposeTasksConfig(StageConfig):
    """How much is drawn, and what generated code may use."""

    num_samples: int = Field(default=8, ge=1)
    """Responses to each instruction; one that passes is kept."""

    num_shots: int = Field(default=4, ge=0, le=len(SHOTS))
    """Worked examples in front of the first two steps, drawn anew for each."""

    max_new_tokens: int = Field(default=512, ge=1)
    """Longest response in tokens; concepts and instructions take at most a quarter of it."""

    temperature: float = Field(default=0.7, gt=0.0)
    """Of all three steps."""

    wall_seconds: float = Field(default=10.0, gt=0.0)
    """Time after which a test run has failed."""

    memory_gib: float = Field(default=4.0, gt=0.0)
    """Address space of a test run in GiB."""

    batch_size: int = Field(default=32, ge=1)
    """Texts decoded together."""

    seed: int = 0
    """Seed of sampling, of the examples and of the choice among passing responses."""

    precision: Precision = "auto"
    """Dtype of a torch model while it writes."""


@dataclass(frozen=True, kw_only=True)
class ComposeTasksInputs:
    """The model, and seed snippets: the text of each row, or its answer."""

    model: ModelArtifact | OnnxArtifact
    data: DatasetArtifact


def _forecast(config: ComposeTasksConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, data = inputs["model"][0], inputs["data"][0]
    num_parameters, num_rows = float(model.get("num_parameters", 0)), float(data.get("num_rows", 0))
    num_flops = 2.0 * num_parameters * num_rows * (config.num_samples + 1) * config.max_new_tokens
    return Forecast(
        {"num_recorded": 0, **rows_alike(data)}, num_flops=num_flops, peak_memory_bytes=6.0 * num_parameters
    )


@stage("compose_tasks", version=2, forecast=_forecast)
def compose_tasks(config: ComposeTasksConfig, inputs: ComposeTasksInputs, workdir: Path) -> DatasetArtifact:
    """Write concepts, an instruction and responses for each snippet; keep one response whose tests pass in the sandbox.

    Tests that an empty solution passes prove nothing and count as missing. Raises ValueError when nothing passes.
    https://arxiv.org/abs/2410.24198
    """
    seeds = [row for row in read_rows(inputs.data.path / "rows.jsonl") if row.text or row.answer]
    if not seeds:
        raise ValueError("the data set has no snippets: give rows with text, or with answers that are code")
    required_guard()  # before hours of writing what may not be run here
    composer = _Composer(config, inputs.model, {row.id: number for number, row in enumerate(seeds)})
    rows = by_shard(workdir, "composing tasks", seeds, composer.composed, NUM_TOGETHER)
    if not any(row.split == "train" for row in rows):
        raise ValueError(
            "no response of a training snippet passes its own tests; raise num_samples or take a stronger model"
        )
    metric("passed_fraction", len(rows) / len(seeds))
    note(f"{len(rows)} of {len(seeds)} tasks have a response that passes its own tests")
    content = workdir / "content"
    write_rows(content / "rows.jsonl", rows)
    name = inputs.data.facts.name or "composed"
    write_card(content, rows, name=name)
    num_heldout = sum(row.split == "heldout" for row in rows)
    vocab_size = inputs.model.facts.vocab_size
    facts = DatasetFacts(name=name, num_rows=len(rows), num_heldout=num_heldout, num_recorded=0, vocab_size=vocab_size)
    return DatasetArtifact.at(content, facts)


class _Composer:
    """The model as an author of tasks."""

    def __init__(
        self, config: ComposeTasksConfig, model: ModelArtifact | OnnxArtifact, numbers: Mapping[str, int]
    ) -> None:
        self.config, self.numbers = config, numbers
        self.tokenizer: Any = load_tokenizer(model.path)
        runner = open_runner(model, config.precision)
        self.sampler = RunnerSampler(runner, stop_ids_of(self.tokenizer, model.path), config.batch_size)
        self.limits = Limits(wall_seconds=config.wall_seconds, memory_bytes=int(config.memory_gib * (1 << 30)))

    def composed(self, seeds: Sequence[Row]) -> list[Row]:
        """Return the tasks of some snippets of which a response passes."""
        return self.answered(seeds, self.instructions(seeds))

    def instructions(self, seeds: Sequence[Row]) -> list[str]:
        """Return one instruction a snippet."""
        short = max(8, self.config.max_new_tokens // 4)
        prompts = [concepts_prompt(row.text or row.answer, self._shots(row)) for row in seeds]
        concepts = [_line(text) for text in self._write(seeds, prompts, "concepts", short)]
        prompts = [
            instruction_prompt(concepts_text, *property_of(self.config.seed, self.numbers[row.id]), self._shots(row))
            for row, concepts_text in zip(seeds, concepts, strict=True)
        ]
        return [_line(text) for text in self._write(seeds, prompts, "instructions", short)]

    def answered(self, seeds: Sequence[Row], instructions: Sequence[str]) -> list[Row]:
        """Return a row for every instruction of which a response passes."""
        num_samples = self.config.num_samples
        prompts = [response_prompt(instruction) for instruction in instructions for _ in range(num_samples)]
        rows = [row for row in seeds for _ in range(num_samples)]
        written = self._write(rows, prompts, "responses", self.config.max_new_tokens)
        composed = []
        for index, (row, instruction) in enumerate(zip(seeds, instructions, strict=True)):
            responses = written[index * num_samples : (index + 1) * num_samples]
            passing = passing_responses(responses, self.limits) if instruction else []
            if passing:
                text, part = random.Random(row_seed(self.config.seed, row.id, -1)).choice(passing)
                composed.append(_composed(row, instruction, text, part, len(passing) / len(set(responses))))
        return composed

    def _shots(self, row: Row) -> list[Shot]:
        return random.Random(row_seed(self.config.seed, row.id, 0)).sample(SHOTS, self.config.num_shots)

    def _write(self, rows: Sequence[Row], prompt_texts: Sequence[str], label: str, max_new_tokens: int) -> list[str]:
        drawn: Counter[str] = Counter()
        prompts = []
        for row, text in zip(rows, prompt_texts, strict=True):
            seed = row_seed(self.config.seed, f"{row.id}/{label}", drawn[row.id])
            prompts.append(Prompt(text, chat_prompt(self.tokenizer, text), seed))
            drawn[row.id] += 1
        written = self.sampler.sample(
            prompts,
            max_new_tokens=max_new_tokens,
            sampling=Sampling(temperature=self.config.temperature),
        )
        # what was cut at the limit is no answer
        return [
            self.tokenizer.decode(answer.token_ids, skip_special_tokens=True).strip() if answer.is_finished else ""
            for answer in written
        ]


def passing_responses(responses: Sequence[str], limits: Limits) -> list[tuple[str, Solved]]:
    """Return the different responses whose solution passes their tests, where nothing at all does not pass them."""
    parts = {text: part for text in dict.fromkeys(responses) if (part := solved(text)) is not None}
    return [
        (text, part)
        for text, part in parts.items()
        if run_tests(part.solution, part.tests, limits) is None and run_tests("", part.tests, limits) is not None
    ]


def _composed(row: Row, instruction: str, text: str, part: Solved, pass_rate: float) -> Row:
    return Row(
        id=row.id,
        question=instruction,
        answer=f"```python\n{part.solution.strip()}\n```",
        verifier="unit_tests",
        reference=part.tests,
        rewrite=text,
        split=row.split,
        source="rewrite",
        reason=COMPOSED,
        pass_rate=pass_rate,
        difficulty=1.0 - pass_rate,
    )


def _line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
