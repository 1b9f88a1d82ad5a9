"""What `evaluate` is told and given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from attar.compressors.export.runtime import CPU
from attar.compressors.masked.filling import FILL_RULES, BelowEntropy, FillRule
from attar.registry.artifacts.confinement import confined
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import (
    AnyData,
    AnyGraph,
    AnyModel,
    DatasetArtifact,
    EvaluationArtifact,
    GgufArtifact,
    ModelArtifact,
    OnnxArtifact,
    PrefixArtifact,
)
from attar.registry.artifacts.subjects import fills_masks
from attar.stages.artifacts.serving.load import ServedConfig
from attar.stages.contract import StageConfig
from attar.stages.evaluate.gate_check import GateCheck
from attar.stages.runtime.device import Precision
from attar.stages.runtime.method_field import MethodField
from attar.stages.runtime.older_fields import Moved

# What onnxruntime.get_all_providers() names; whether one is there is known when a session opens.
Provider = Literal[
    "CPUExecutionProvider",
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
    "MIGraphXExecutionProvider",
    "ROCMExecutionProvider",
    "OpenVINOExecutionProvider",
    "DnnlExecutionProvider",
    "VitisAIExecutionProvider",
    "QNNExecutionProvider",
    "NnapiExecutionProvider",
    "VSINPUExecutionProvider",
    "JsExecutionProvider",
    "CoreMLExecutionProvider",
    "DmlExecutionProvider",
    "RknpuExecutionProvider",
    "WebNNExecutionProvider",
    "WebGpuExecutionProvider",
    "XnnpackExecutionProvider",
    "CANNExecutionProvider",
    "AzureExecutionProvider",
]

# What is measured: a model or its graph.
Measured = AnyModel | AnyGraph
# What counts as right of a task, in this order of preference.
COUNTED = ("acc_norm", "acc", "exact_match")

# Fields that say something of models that write, and of no other.
CAUSAL_FIELDS = ("max_new_tokens", "perplexity_window", "num_samples", "harness", "drafts", "stop", "timing")


class DraftsConfig(StageConfig):
    """With the input `original`: how the model drafts for it."""

    lengths: list[Annotated[int, Field(ge=1, le=64)]] = [1, 2, 4]
    """Tokens that the model drafts before the original checks them, each measured, in 1 to 64."""

    num_prompts: int = Field(default=8, ge=1)
    """Questions, of all tasks in turn, whose answers are drafted."""


class TimingConfig(StageConfig):
    """How fast the model is: alone, and served."""

    num_prompt_tokens: int = Field(default=128, ge=1)
    """Prompt length at which prefill and decode are timed and FLOPs are counted."""

    served: ServedConfig | None = None
    """With the input tasks: throughput and latency behind an engine, by number of clients. Left out: not measured."""

    fills: Annotated[FillRule, MethodField(FILL_RULES, "fills", "entropy")] = BelowEntropy()
    """Of a model that fills masks: which masks a pass fills, at least the surest. {kind: entropy, max_nats: 0.5}, or
    {kind: probability, min_probability: 0.9}; higher entropy and lower probability take fewer passes."""


class HarnessConfig(StageConfig):
    """Tasks of lm-eval, by name."""

    folder: str = ""
    """Folder with lm-eval task YAML files of your own."""

    tasks: list[str] = []
    """Names of tasks in `folder` to run besides the inputs."""

    @model_validator(mode="after")
    def _tasks_have_a_home(self) -> HarnessConfig:
        if bool(self.tasks) != bool(self.folder):
            raise ValueError("tasks and folder belong together: give both or neither")
        if self.folder and not confined(Path(self.folder)).is_dir():
            raise ValueError(f"folder {self.folder} is not a folder")
        return self


class StopConfig(StageConfig):
    """When enough questions were asked: intervals that hold whenever they are read, https://arxiv.org/abs/2010.09686."""

    checks: Annotated[tuple[GateCheck, ...], Field(min_length=1)]
    """Checks of accuracy, as in the gate: asking ends when each is surely passed, or any surely failed."""

    level: float = Field(default=0.05, gt=0, lt=0.5)
    """One-sided error of a wrong verdict, over all checks (Holm); not above that of the gate."""

    block_size: int = Field(default=16, ge=1)
    """Questions of a block, about: after each the verdict is looked at."""

    seed: int = 0
    """Seed of the questions' order, which also depends on the model."""

    @field_validator("checks")
    @classmethod
    def _of_questions(cls, checks: tuple[GateCheck, ...]) -> tuple[GateCheck, ...]:
        for check in checks:
            if not check.measure.startswith("accuracy_"):
                raise ValueError(
                    f"{check.measure} is not asked question by question; accepted: accuracy_drop, accuracy_retention"
                )
        return checks


class EvaluateConfig(StageConfig):
    """What is measured, on how much."""

    max_rows: int = Field(default=0, ge=0)
    """Rows of each task; 0: all it has."""

    max_new_tokens: int = Field(default=128, ge=1)
    """Longest generated answer, in tokens."""

    batch_size: int = Field(default=16, ge=1)
    """Texts scored or generated together, or images."""

    perplexity_window: int = Field(default=512, ge=2)
    """Tokens in one perplexity window; windows do not overlap."""

    num_samples: int = Field(default=4, ge=0)
    """Answers kept word for word, to be read side by side."""

    timing: TimingConfig = TimingConfig()
    """At which prompt length the model is timed, and whether it is served for that."""

    harness: HarnessConfig = HarnessConfig()
    """Tasks of lm-eval to run besides the inputs."""

    precision: Precision = "auto"
    """Dtype of a Hugging Face model; ONNX graphs bring their own."""

    provider: Provider = CPU
    """Where onnxruntime must run an ONNX graph, such as CUDAExecutionProvider; where it cannot, the stage fails."""

    drafts: DraftsConfig = DraftsConfig()
    """With the input `original`: how the model drafts for it."""

    part: Literal["heldout", "choose"] = "heldout"
    """Which rows are measured on: heldout, those that are reported, or choose, those that choices are made on, as a sweep's."""

    stop: StopConfig | None = None
    """With the input `baseline`: questions are asked in random blocks until the verdict on these checks is sure. Left out: all are asked."""

    moved: ClassVar[Mapping[str, Moved]] = {
        "task_folder": Moved("harness.folder"),
        "tasks": Moved("harness.tasks"),
        "draft_lengths": Moved("drafts.lengths"),
        "num_draft_prompts": Moved("drafts.num_prompts"),
        "num_prompt_tokens": Moved("timing.num_prompt_tokens"),
    }

    @model_validator(mode="after")
    def _blocks_are_of_questions(self) -> EvaluateConfig:
        if self.stop is not None and self.harness.tasks:
            raise ValueError(
                "stop asks the questions of data sets in blocks; tasks of lm-eval run whole: leave either out"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class EvaluateInputs:
    """The model, data sets with checkable questions, and text for the perplexity. For an encoder graded pairs, questions and their corpus;
    for an image classifier images.
    `original`: what the model is to draft for.

    `beside` is timed with it, in turns: only then does the ratio of the two mean more than the machine's mood. `baseline`: the original's
    evaluation on the same questions, by which `stop` knows when enough were asked. `form`: what is served in the model's stead where serving is
    measured, such as its GGUF file. `prefix`: vectors that stand before every text. Held-out rows are used where there are any.
    """

    model: Measured
    tasks: tuple[AnyData, ...] = ()
    text: DatasetArtifact | None = None
    original: ModelArtifact | None = None
    beside: Measured | None = None
    baseline: EvaluationArtifact | None = None
    form: ModelArtifact | OnnxArtifact | GgufArtifact | None = None
    prefix: PrefixArtifact | None = None


def refuse_provider(config: EvaluateConfig, model: Facts, *, is_graph: bool) -> None:
    """Raise ValueError for a provider where no graph is measured, and for one without the graph's kernels."""
    if config.provider != CPU and not is_graph:
        raise ValueError(f"provider is {config.provider!r}, but the model is no ONNX graph; accepted: {CPU!r}")
    if config.provider == CPU and model.get("precision") == "bfloat16":
        raise ValueError(
            f"provider is {CPU!r}, which has no products in bfloat16, but the graph is in it; accepted: CUDAExecutionProvider and other "
            "GPUs', or a graph in float16"
        )


def refuse_fills(config: EvaluateConfig, beside: Sequence[Facts]) -> None:
    """Raise ValueError for a rule of filling masks, or a model that does, beside a model that does not."""
    if any(map(fills_masks, beside)):
        raise ValueError("input beside fills masks, and the model does not; accepted: the other way round")
    if config.timing.fills != BelowEntropy():
        raise ValueError("timing.fills is given, but the model fills no masks; accepted: left out")
