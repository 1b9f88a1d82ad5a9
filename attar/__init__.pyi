"""The types of Attar's face. Written by `python -m attar.call_stub`: change the modules, not this file."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal

from attar.comparison import Comparison as Comparison
from attar.comparison import compare as compare
from attar.entries import load_recipe as load_recipe
from attar.entries import node as node
from attar.entries import pull as pull
from attar.one_line import AttarError as AttarError
from attar.pipelines.recipe.mistakes import RecipeError as RecipeError
from attar.pipelines.recipe.whole import Recipe as Recipe
from attar.plans import Plan as Plan
from attar.plans import plan as plan
from attar.registry.artifacts.store import Store as Store
from attar.runs import Run as Run
from attar.runs import load_run as load_run
from attar.runs import run as run
from attar.registry.artifacts.handles import AdapterArtifact
from attar.registry.artifacts.handles import BehaviourArtifact
from attar.registry.artifacts.handles import CTranslate2Artifact
from attar.registry.artifacts.handles import ClassifierArtifact
from attar.registry.artifacts.handles import ClassifierGraphArtifact
from attar.registry.artifacts.handles import ComparisonArtifact
from attar.registry.artifacts.handles import CompressorArtifact
from attar.registry.artifacts.handles import DatasetArtifact
from attar.registry.artifacts.handles import DenoiserArtifact
from attar.registry.artifacts.handles import EncoderArtifact
from attar.registry.artifacts.handles import EncoderGraphArtifact
from attar.registry.artifacts.handles import EvaluationArtifact
from attar.registry.artifacts.handles import FittedArtifact
from attar.registry.artifacts.handles import GgufArtifact
from attar.registry.artifacts.handles import ImageClassifierArtifact
from attar.registry.artifacts.handles import ImageDatasetArtifact
from attar.registry.artifacts.handles import ImageGraphArtifact
from attar.registry.artifacts.handles import ModelArtifact
from attar.registry.artifacts.handles import OnnxArtifact
from attar.registry.artifacts.handles import OpenVinoArtifact
from attar.registry.artifacts.handles import PrefixArtifact
from attar.registry.artifacts.handles import ReleaseArtifact
from attar.registry.artifacts.handles import SamplerGraphArtifact
from attar.registry.artifacts.handles import ScanArtifact
from attar.registry.artifacts.handles import TaggerArtifact
from attar.registry.artifacts.handles import TaggerGraphArtifact
from attar.registry.artifacts.handles import VisionModelArtifact

__version__: str
HOMES: dict[str, str]
# a folder, a file or a source line
Source = str | PathLike[str]

class Stages:
    """Each stage as a function of folders; the modules of the package `attar.stages` are imported by their own names."""

    def ingest_model(
        self,
        *,
        source: str,
        model: Mapping[str, Any] = ...,
        sha256: str = "",
        strip_from_names: Sequence[str] = ...,
        license: str = "",
        expect: Mapping[str, int | str] = ...,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> ModelArtifact | EncoderArtifact | ClassifierArtifact | TaggerArtifact | ImageClassifierArtifact | DenoiserArtifact:
        """Bring a model in as a plain safetensors folder."""

    def ingest_data(
        self,
        *,
        source: str,
        name: str = "",
        hub_config: str = "",
        columns: Mapping[str, Any] = ...,
        assistant_turns: Literal["every", "last"] = "every",
        blank_rows: Literal["refuse", "drop"] = "refuse",
        verifier: Literal["number", "choice", "contains", "exact", "pattern", "json_schema", "unit_tests", "none", "auto"] = "auto",
        max_rows: int = 0,
        words_a_row: int = 0,
        heldout_fraction: float = 0.1,
        choose_fraction: float | None = None,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> DatasetArtifact:
        """Bring a data set in as checkable questions and answers, or as the turns of conversations."""

    def ingest_images(
        self,
        *,
        source: str,
        name: str = "",
        classes: Sequence[str] | str = "",
        columns: Mapping[str, Any] = ...,
        channels: int = 0,
        max_rows: int = 0,
        heldout_fraction: float = 0.1,
        choose_fraction: float | None = None,
        tail_fraction: float = 1.0,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> ImageDatasetArtifact:
        """Bring images in with their classes: encoded bytes as they came, each decoded once. An array becomes PNG, which loses nothing."""

    def scan(
        self,
        *,
        model: ModelArtifact | EncoderArtifact | ClassifierArtifact | TaggerArtifact | ImageClassifierArtifact | Source,
        data: DatasetArtifact | ImageDatasetArtifact | Source,
        metrics: Sequence[str] = ...,
        sizes: Sequence[int] = ...,
        patch_weight: Literal["none", "norm"] = "norm",
        calibration: Mapping[str, Any] = ...,
        greedy: Mapping[str, Any] = ...,
        candidates: Mapping[str, Any] = ...,
        measure_latency: bool = False,
        in_memory: Literal["auto", "model", "block"] = "auto",
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> ScanArtifact:
        """Score every window of blocks under each of the metrics, as tables. Of encoders and classifiers those that need no next token."""

    def search_blocks(
        self,
        *,
        model: ImageClassifierArtifact | Source,
        data: ImageDatasetArtifact | Source,
        num_steps: int = 200,
        batch_size: int = 64,
        learning_rate: float = 0.001,
        gate_rate: float = 0.01,
        voting: Mapping[str, Any] = ...,
        num_removed: int = 1,
        checkpoint_every: int = 50,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> ScanArtifact:
        """Score blocks by gates between each and handing on what it reads, as a scan for `prune`, metric architecture."""

    def prune(
        self,
        *,
        model: ModelArtifact | EncoderArtifact | ClassifierArtifact | TaggerArtifact | ImageClassifierArtifact | Source,
        scan: ScanArtifact | Source | None = None,
        data: DatasetArtifact | ImageDatasetArtifact | Source | Sequence[DatasetArtifact | ImageDatasetArtifact | Source] = (),
        teacher: ModelArtifact | EncoderArtifact | ClassifierArtifact | TaggerArtifact | ImageClassifierArtifact | Source | None = None,
        num_blocks: int = 0,
        keep_fraction: Mapping[str, float] = ...,
        metric: str = "angular_distance",
        choice: Literal["window", "free"] = "window",
        protect_first: int = 0,
        protect_last: int = 0,
        blocks: Sequence[int] = ...,
        plan: Mapping[str, Any] | None = None,
        elastic: Mapping[str, Any] | None = None,
        patch: Mapping[str, Any] = ...,
        in_memory: Literal["auto", "model", "block"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> ModelArtifact | EncoderArtifact | ClassifierArtifact | TaggerArtifact | ImageClassifierArtifact:
        """Remove blocks of a model. The result loads and runs like any other of its family, which is tried on what was written."""

    def narrow(
        self,
        *,
        model: ModelArtifact | ImageClassifierArtifact | Source,
        data: DatasetArtifact | ImageDatasetArtifact | Source | Sequence[DatasetArtifact | ImageDatasetArtifact | Source] = (),
        size: Mapping[str, Any] = ...,
        num_removed_groups: int = 0,
        spread: Literal["even", "ranked"] = "even",
        score: str = "taylor",
        params: Mapping[str, Any] = ...,
        patch: Mapping[str, Any] = ...,
        calibration: Mapping[str, Any] = ...,
        in_memory: Literal["auto", "model", "block"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> ModelArtifact | ImageClassifierArtifact:
        """Remove feed-forward channels and KV heads, or an image classifier's channels. The result loads like any other, which is tried."""

    def prune_experts(
        self,
        *,
        model: ModelArtifact | Source,
        data: DatasetArtifact | Source | Sequence[DatasetArtifact | Source] = (),
        num_experts: int = 0,
        fraction: float = 0.0,
        method: str = "reap",
        params: Mapping[str, Any] = ...,
        calibration: Mapping[str, Any] = ...,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> ModelArtifact:
        """Remove or merge experts, as many in each block. The result loads and decodes like any other model of its family, which is tried."""

    def trim_vocabulary(
        self,
        *,
        model: ModelArtifact | Source,
        data: DatasetArtifact | Source | Sequence[DatasetArtifact | Source],
        num_tokens: int | None = None,
        min_count: int = 1,
        keep_scripts: Sequence[str] = ...,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> ModelArtifact:
        """Keep the tokens that a corpus, the chat template, bytes and special tokens need, in tokenizer, embedding and head."""

    def self_data(
        self,
        *,
        model: ModelArtifact | OnnxArtifact | Source,
        data: DatasetArtifact | Source,
        prefix: PrefixArtifact | Source | None = None,
        sampler: Literal["torch", "onnx", "server"] = "torch",
        server: Mapping[str, Any] | None = None,
        prompt: Mapping[str, Any] = ...,
        drawing: Mapping[str, Any] = ...,
        recorded: Mapping[str, Any] = ...,
        free_texts: Mapping[str, Any] = ...,
        drafts: Mapping[str, Any] = ...,
        batch_size: int = 32,
        rows_per_shard: int = 256,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> DatasetArtifact:
        """Let the original model rewrite each answer with the reference in view; keep what passes, else the reference."""

    def curate(
        self,
        *,
        data: DatasetArtifact | Source,
        tasks: DatasetArtifact | Source | Sequence[DatasetArtifact | Source] = (),
        model: ModelArtifact | Source | None = None,
        length: Mapping[str, Any] = ...,
        min_distinct_fraction: float = 0.2,
        min_pass_rate: float = 0.0,
        max_pass_rate: float = 1.0,
        duplicates: Mapping[str, Any] = ...,
        contamination: Mapping[str, Any] = ...,
        budget: Mapping[str, Any] = ...,
        num_scored_rows: int = 64,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> DatasetArtifact:
        """Leave out repeated, contaminated, looping, over-long and too easy or hard rows; say which and why in a data card."""

    def record(
        self,
        *,
        model: ModelArtifact | Source,
        data: DatasetArtifact | Source,
        tokens: Literal["answers", "all"] = "all",
        num_recorded: int = 64,
        max_tokens: int = 512,
        max_rows: int = 0,
        batch_size: int = 8,
        rows_per_shard: int = 256,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        in_memory: Literal["auto", "model", "block"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> DatasetArtifact:
        """Score every row once with the teacher and record its most likely next tokens. Distillation then needs no teacher in memory."""

    def answer(
        self,
        *,
        model: ModelArtifact | OnnxArtifact | Source,
        data: DatasetArtifact | Source,
        anchor: ModelArtifact | OnnxArtifact | Source | None = None,
        prefix: PrefixArtifact | Source | None = None,
        num_samples: int = 1,
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        keep: Literal["all", "finished", "passing"] = "finished",
        anchor_nats_per_token: float = 0.15,
        num_debt_tokens: int = 5,
        batch_size: int = 32,
        rows_per_shard: int = 64,
        seed: int = 0,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> DatasetArtifact:
        """Answer each question with it alone in view; every row says the share of its question's answers that pass."""

    def revise(
        self,
        *,
        model: ModelArtifact | Source,
        data: DatasetArtifact | Source,
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 0.9,
        num_samples: int = 1,
        revise_right: bool = False,
        right_phrase: str = "Let me rephrase the above solution.",
        wrong_phrase: str = "Wait, this response is wrong. Let me correct it.",
        batch_size: int = 32,
        seed: int = 0,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> DatasetArtifact:
        """Let the model answer, then revise behind a phrase that the verifier chooses; keep revisions that are right."""

    def learn_skills(
        self,
        *,
        model: ModelArtifact | OnnxArtifact | Source,
        data: DatasetArtifact | Source,
        attempts: DatasetArtifact | Source,
        max_new_tokens: int = 64,
        template: str = "{question}\n\nAn attempt that was right:\n{right}\n\nAn attempt that was wrong:\n{wrong}\n\nIn one sentence, without the answer itself: what should one do, and what avoid, to get this right?",
        batch_size: int = 32,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> DatasetArtifact:
        """Put beside each question what the model learned from its attempts; a question without judged attempts gets nothing."""

    def choose_answers(
        self,
        *,
        data: DatasetArtifact | Source,
        teacher: ModelArtifact | Source | None = None,
        student: ModelArtifact | Source | None = None,
        by: Literal["teacher_sentences", "edit_distance"],
        keep_fraction: float = 0.5,
        delta_nats: float = 0.6931471805599453,
        num_kept: int = 2,
        batch_size: int = 8,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> DatasetArtifact:
        """Keep the answers that are most the teacher's own, or most unlike each other; held-out rows stay. Raises ValueError without any."""

    def choose_teacher(
        self,
        *,
        data: DatasetArtifact | Source | Sequence[DatasetArtifact | Source],
        trials: AdapterArtifact | Source | Sequence[AdapterArtifact | Source],
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> DatasetArtifact:
        """Return the data set whose trial student answers most held-out questions right. Raises ValueError for a trial without that number."""

    def select_images(
        self,
        *,
        data: ImageDatasetArtifact | Source,
        teacher: ImageClassifierArtifact | Source,
        protected: ImageDatasetArtifact | Source | Sequence[ImageDatasetArtifact | Source],
        num_per_class: int = 1000,
        max_distance: int = 4,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> ImageDatasetArtifact:
        """Keep the images that a teacher is surest of, so many a class. No near-duplicate of a held-out image stays, and no label."""

    def grade(
        self,
        *,
        model: ModelArtifact | Source,
        data: DatasetArtifact | Source,
        self_weight: float = 0.5,
        batch_size: int = 16,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> DatasetArtifact:
        """Turn answers into a judge's questions, each with its grade: one digit, from 0 to 9."""

    def label_pairs(
        self,
        *,
        models: EncoderArtifact | ClassifierArtifact | Source | Sequence[EncoderArtifact | ClassifierArtifact | Source],
        data: DatasetArtifact | Source,
        batch_size: int = 16,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> DatasetArtifact:
        """Give each pair the mean of what the models say of it, in [0, 1]. Held-out pairs keep their own grade."""

    def label_spans(
        self,
        *,
        model: ModelArtifact | OnnxArtifact | TaggerArtifact | TaggerGraphArtifact | Source,
        data: DatasetArtifact | Source,
        examples: DatasetArtifact | Source | None = None,
        kinds: Sequence[str] = ...,
        num_examples: int = 4,
        wrong_spans: Literal["drop_span", "drop_row"] = "drop_span",
        max_new_tokens: int = 256,
        batch_size: int = 16,
        server: Mapping[str, Any] | None = None,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> DatasetArtifact:
        """Give each text the spans that the teacher tells, as far as they are verbatim in it. Held-out texts keep their own."""

    def judge(
        self,
        *,
        model: ModelArtifact | OnnxArtifact | Source,
        data: DatasetArtifact | Source,
        min_score: float = 0.0,
        keep_best: int = 0,
        batch_size: int = 16,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> DatasetArtifact:
        """Put the judge's score beside every answer, and leave out training rows that score low; held-out rows stay."""

    def align(
        self,
        *,
        teacher: ModelArtifact | Source,
        student: ModelArtifact | Source,
        data: DatasetArtifact | Source,
        batch_size: int = 8,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> DatasetArtifact:
        """Cut each answer into the shortest stretches that both tokenizers end together, with the teacher's log-likelihood of each."""

    def compose_tasks(
        self,
        *,
        model: ModelArtifact | OnnxArtifact | Source,
        data: DatasetArtifact | Source,
        num_samples: int = 8,
        num_shots: int = 4,
        max_new_tokens: int = 512,
        temperature: float = 0.7,
        wall_seconds: float = 10.0,
        memory_gib: float = 4.0,
        batch_size: int = 32,
        seed: int = 0,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> DatasetArtifact:
        """Write concepts, an instruction and responses for each snippet; keep one response whose tests pass in the sandbox."""

    def finetune(
        self,
        *,
        model: ModelArtifact | EncoderArtifact | ClassifierArtifact | TaggerArtifact | ImageClassifierArtifact | DenoiserArtifact | Source,
        data: DatasetArtifact | ImageDatasetArtifact | Source | Sequence[DatasetArtifact | ImageDatasetArtifact | Source],
        teacher: ModelArtifact | EncoderArtifact | ClassifierArtifact | TaggerArtifact | ImageClassifierArtifact | DenoiserArtifact | Source | None = None,
        teachers: ModelArtifact | EncoderArtifact | ClassifierArtifact | TaggerArtifact | ImageClassifierArtifact | DenoiserArtifact | Source | Sequence[ModelArtifact | EncoderArtifact | ClassifierArtifact | TaggerArtifact | ImageClassifierArtifact | DenoiserArtifact | Source] = (),
        anchor: ModelArtifact | Source | None = None,
        fitted: FittedArtifact | Source | None = None,
        start: CompressorArtifact | Source | None = None,
        adapt: Mapping[str, Any] = ...,
        objectives: Mapping[str, float | Mapping[str, Any]] = ...,
        past: Any = ...,
        rollout: Any = ...,
        rows: Mapping[str, Any] = ...,
        schedule: Mapping[str, Any] = ...,
        heldout: Mapping[str, Any] = ...,
        checkpoints: Mapping[str, Any] = ...,
        compute: Mapping[str, Any] = ...,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> AdapterArtifact | PrefixArtifact | CompressorArtifact:
        """Train on the student what the method makes trainable, keeping the best state seen on the held-out rows."""

    def condense(
        self,
        *,
        model: ModelArtifact | Source,
        compressor: CompressorArtifact | Source,
        data: DatasetArtifact | Source,
        num_shown: int = 3,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> PrefixArtifact:
        """Turn demonstrations into vectors that stand before a prompt in their place."""

    def fit_share(
        self,
        *,
        on_labels: ModelArtifact | Source,
        on_teacher: ModelArtifact | Source,
        data: DatasetArtifact | Source,
        max_rows: int = 0,
        batch_size: int = 8,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> FittedArtifact:
        """Return the share in [0, 1] with the least held-out squared error. Raises ValueError without held-out questions."""

    def merge_adapters(
        self,
        *,
        adapters: AdapterArtifact | Source | Sequence[AdapterArtifact | Source],
        base: ModelArtifact | Source | None = None,
        method: str = "concat",
        params: Mapping[str, Any] = ...,
        weights: Sequence[float] = ...,
        max_error: float = 0.0,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> AdapterArtifact:
        """Make one low-rank adapter of several of one base, and measure what it misses of their weighted sum."""

    def guide_data(
        self,
        *,
        model: ModelArtifact | Source,
        data: DatasetArtifact | Source,
        weak: ModelArtifact | Source | None = None,
        unguided: Any = ...,
        scales: Mapping[str, Any] = ...,
        drawing: Mapping[str, Any] = ...,
        num_recorded: int = 64,
        max_rows: int = 0,
        batch_size: int = 32,
        rows_per_shard: int = 256,
        seed: int = 0,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> DatasetArtifact:
        """Draw continuations from l_u + w (l_c - l_u), w drawn for each, and record that distribution's candidates."""

    def guide(
        self,
        *,
        model: ModelArtifact | Source,
        data: DatasetArtifact | Source | Sequence[DatasetArtifact | Source],
        teacher: ModelArtifact | Source | None = None,
        weak: ModelArtifact | Source | None = None,
        second: ModelArtifact | Source | None = None,
        adapter: Literal["cross", "offset", "lora"] = "cross",
        rank: int = 64,
        num_tokens: int = 32,
        num_heads: int = 4,
        is_base_at_one: bool = True,
        training: Mapping[str, Any] = ...,
        max_kl_ratio: float = 0.6,
        num_gate_rows: int = 32,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> AdapterArtifact:
        """Train adapters that are told the guidance scale to give the two-pass distribution in one pass."""

    def merge(
        self,
        *,
        base: ModelArtifact | EncoderArtifact | ClassifierArtifact | TaggerArtifact | ImageClassifierArtifact | DenoiserArtifact | Source | None = None,
        students: AdapterArtifact | ModelArtifact | Source | Sequence[AdapterArtifact | ModelArtifact | Source],
        dev: DatasetArtifact | Source | Sequence[DatasetArtifact | Source] = (),
        method: str = "fold",
        params: Mapping[str, Any] = ...,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        max_shard_bytes: int = 5000000000,
        guidance_scale: float | None = None,
        search: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> ModelArtifact | EncoderArtifact | ClassifierArtifact | TaggerArtifact | ImageClassifierArtifact | DenoiserArtifact:
        """Make one plain model of a base and its students. One that does not write takes the weights that were trained on it."""

    def rejoin(
        self,
        *,
        model: ModelArtifact | Source,
        source: str,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> VisionModelArtifact:
        """Write the whole vision-language model with this language tower; picture tower and projector stay bit for bit."""

    def export(
        self,
        *,
        model: ModelArtifact | EncoderArtifact | ClassifierArtifact | TaggerArtifact | ImageClassifierArtifact | DenoiserArtifact | Source,
        data: DatasetArtifact | ImageDatasetArtifact | Source,
        guidance: AdapterArtifact | Source | None = None,
        text: DatasetArtifact | Source | None = None,
        format: Mapping[str, Any] = ...,
        num_prompts: int = 4,
        num_new_tokens: int = 64,
        min_token_agreement: float = 0.98,
        max_tie_logits: float = 0.25,
        max_logit_difference: float = 0.01,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> OnnxArtifact | EncoderGraphArtifact | ClassifierGraphArtifact | TaggerGraphArtifact | ImageGraphArtifact | GgufArtifact | ModelArtifact | OpenVinoArtifact | CTranslate2Artifact | SamplerGraphArtifact:
        """Write a model in the form that a runtime reads, and compare that with torch on real prompts."""

    def quantize(
        self,
        *,
        model: OnnxArtifact | EncoderGraphArtifact | ClassifierGraphArtifact | TaggerGraphArtifact | ImageGraphArtifact | Source,
        data: DatasetArtifact | ImageDatasetArtifact | Source,
        text: DatasetArtifact | Source | None = None,
        limits: Mapping[str, Any],
        weights: Mapping[str, Any] = ...,
        method: str = "error_corrected",
        params: Mapping[str, Any] = ...,
        smooth: float = 0.5,
        exclude: Sequence[str] = ...,
        twofold: Sequence[str] = ...,
        max_kept: int = 0,
        target_kl_nats: float = 0.0,
        measured: Mapping[str, Any] = ...,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> OnnxArtifact | EncoderGraphArtifact | ClassifierGraphArtifact | TaggerGraphArtifact | ImageGraphArtifact:
        """Quantize an exported graph and compare it with the float one: KL, greedy agreement, perplexity, size, speed."""

    def quantize_torch(
        self,
        *,
        model: ModelArtifact | Source,
        data: DatasetArtifact | Source,
        text: DatasetArtifact | Source | None = None,
        limits: Mapping[str, Any],
        method: Literal["int8", "nf4"],
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        in_memory: Literal["auto", "model", "block"] = "auto",
        max_tokens: int = 256,
        max_rows: int = 64,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> ModelArtifact:
        """Quantize a model with bitsandbytes and compare it with the original: KL, greedy agreement, perplexity, size, speed."""

    def evaluate(
        self,
        *,
        model: ModelArtifact | EncoderArtifact | ClassifierArtifact | TaggerArtifact | ImageClassifierArtifact | OnnxArtifact | EncoderGraphArtifact | ClassifierGraphArtifact | TaggerGraphArtifact | ImageGraphArtifact | Source,
        tasks: DatasetArtifact | ImageDatasetArtifact | Source | Sequence[DatasetArtifact | ImageDatasetArtifact | Source] = (),
        text: DatasetArtifact | Source | None = None,
        original: ModelArtifact | Source | None = None,
        beside: ModelArtifact | EncoderArtifact | ClassifierArtifact | TaggerArtifact | ImageClassifierArtifact | OnnxArtifact | EncoderGraphArtifact | ClassifierGraphArtifact | TaggerGraphArtifact | ImageGraphArtifact | Source | None = None,
        baseline: EvaluationArtifact | Source | None = None,
        form: ModelArtifact | OnnxArtifact | GgufArtifact | Source | None = None,
        prefix: PrefixArtifact | Source | None = None,
        max_rows: int = 0,
        max_new_tokens: int = 128,
        batch_size: int = 16,
        perplexity_window: int = 512,
        num_samples: int = 4,
        timing: Mapping[str, Any] = ...,
        harness: Mapping[str, Any] = ...,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        provider: Literal["CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider", "MIGraphXExecutionProvider", "ROCMExecutionProvider", "OpenVINOExecutionProvider", "DnnlExecutionProvider", "VitisAIExecutionProvider", "QNNExecutionProvider", "NnapiExecutionProvider", "VSINPUExecutionProvider", "JsExecutionProvider", "CoreMLExecutionProvider", "DmlExecutionProvider", "RknpuExecutionProvider", "WebNNExecutionProvider", "WebGpuExecutionProvider", "XnnpackExecutionProvider", "CANNExecutionProvider", "AzureExecutionProvider"] = "CPUExecutionProvider",
        drafts: Mapping[str, Any] = ...,
        part: Literal["heldout", "choose"] = "heldout",
        stop: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> EvaluationArtifact:
        """Measure accuracy, perplexity, sizes, FLOPs a token, latency alone and served, and what the model is worth as a draft."""

    def compare(
        self,
        *,
        model: ModelArtifact | Source | Sequence[ModelArtifact | Source],
        original: ModelArtifact | Source,
        tasks: DatasetArtifact | Source | Sequence[DatasetArtifact | Source] = (),
        texts: DatasetArtifact | Source | Sequence[DatasetArtifact | Source] = (),
        max_rows: int = 0,
        max_tokens: int = 512,
        max_text_tokens: int = 0,
        num_own_answers: int = 0,
        max_new_tokens: int = 160,
        batch_size: int = 8,
        names: Sequence[str] = ...,
        against: Mapping[str, Sequence[str]] = ...,
        models_at_once: int = 0,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> ComparisonArtifact:
        """Measure KL to the original, greedy agreement, loss ratio and paired retention of accuracy, each with a 95% interval."""

    def check_behaviour(
        self,
        *,
        model: ModelArtifact | OnnxArtifact | Source,
        original: ModelArtifact | Source,
        cases: DatasetArtifact | Source | Sequence[DatasetArtifact | Source] = (),
        training: DatasetArtifact | Source | Sequence[DatasetArtifact | Source] = (),
        groups: Sequence[Literal["refusals", "format", "copying", "arithmetic", "brackets", "position"]] = ...,
        max_cases: int = 0,
        max_new_tokens: int = 96,
        batch_size: int = 16,
        verbatim: Mapping[str, Any] = ...,
        level: float = 0.05,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> BehaviourArtifact:
        """Ask student and original the same cases and count the flips, each group with an interval."""

    def sample(
        self,
        *,
        model: DenoiserArtifact | SamplerGraphArtifact | Source,
        data: ImageDatasetArtifact | Source,
        others: DenoiserArtifact | Source | Sequence[DenoiserArtifact | Source] = (),
        guidance: AdapterArtifact | Source | None = None,
        num_steps: int = 25,
        guidance_scale: float = 1.0,
        num_images: int = 1000,
        batch_size: int = 100,
        seeds: Sequence[int] = ...,
        classifier: Mapping[str, Any] = ...,
        probe: Mapping[str, Any] | None = None,
        part: Literal["heldout", "choose"] = "heldout",
        routes: Sequence[Sequence[int]] = ...,
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> EvaluationArtifact:
        """Draw images of every class and measure them against held-out ones by a classifier's features."""

    def register(
        self,
        *,
        model: ModelArtifact | EncoderArtifact | ClassifierArtifact | TaggerArtifact | ImageClassifierArtifact | DenoiserArtifact | Source,
        evaluation: EvaluationArtifact | Source,
        baseline: EvaluationArtifact | Source,
        onnx: OnnxArtifact | EncoderGraphArtifact | ClassifierGraphArtifact | TaggerGraphArtifact | ImageGraphArtifact | SamplerGraphArtifact | Source | Sequence[OnnxArtifact | EncoderGraphArtifact | ClassifierGraphArtifact | TaggerGraphArtifact | ImageGraphArtifact | SamplerGraphArtifact | Source] = (),
        onnx_evaluation: EvaluationArtifact | Source | Sequence[EvaluationArtifact | Source] = (),
        forms: OnnxArtifact | EncoderGraphArtifact | ClassifierGraphArtifact | TaggerGraphArtifact | ImageGraphArtifact | SamplerGraphArtifact | GgufArtifact | ModelArtifact | OpenVinoArtifact | CTranslate2Artifact | Source | Sequence[OnnxArtifact | EncoderGraphArtifact | ClassifierGraphArtifact | TaggerGraphArtifact | ImageGraphArtifact | SamplerGraphArtifact | GgufArtifact | ModelArtifact | OpenVinoArtifact | CTranslate2Artifact | Source] = (),
        comparison: ComparisonArtifact | Source | None = None,
        behaviour: BehaviourArtifact | Source | None = None,
        name: str,
        gate: Mapping[str, float] | Mapping[str, Any] = ...,
        champion: Literal["past_gate", "by_decision"] = "past_gate",
        config: Mapping[str, Any] | None = None,
        output: Source | None = None,
        store: Store | None = None,
    ) -> ReleaseArtifact:
        """Register the model with its forms, card, lineage and figures; alias `candidate`, and `champion` once the gate holds."""

stages: Stages
