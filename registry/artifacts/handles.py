"""Handles that travel between stages: where a thing lies, what it is, and the fingerprint of its content."""

from __future__ import annotations

from attar.registry.artifacts.artifact import Artifact
from attar.registry.artifacts.kinds.classifier_facts import (
    ClassifierFacts,
    ClassifierGraphFacts,
    ImageClassifierFacts,
    ImageDatasetFacts,
    ImageGraphFacts,
)
from attar.registry.artifacts.kinds.encoder_facts import (
    DenoiserFacts,
    EncoderFacts,
    EncoderGraphFacts,
    SamplerGraphFacts,
)
from attar.registry.artifacts.kinds.kind_facts import (
    AdapterFacts,
    BehaviourFacts,
    ComparisonFacts,
    DatasetFacts,
    EvaluationFacts,
    FittedFacts,
    GgufFacts,
    ModelFacts,
    ReleaseFacts,
    RuntimeFormFacts,
    ScanFacts,
    VisionModelFacts,
)
from attar.registry.artifacts.kinds.onnx_facts import OnnxFacts
from attar.registry.artifacts.kinds.prefix_facts import CompressorArtifact, PrefixArtifact
from attar.registry.artifacts.kinds.shard_facts import ShardArtifact  # noqa: F401 - one of KINDS
from attar.registry.artifacts.subjects import CLASSIFIER, DENOISER, ENCODER, IMAGES, TAGGER

DATA_CARD = "data_card"  # files in a data set's `records/` that describe it: .md for people, .json for programs
TRIALS = "trials"  # name of the table in a merged model's `records/` that says what was tried
FLIPS = "flips.jsonl"  # name of the file of a behaviour check that holds the texts of what changed, a line each
FIGURES = "figures.json"  # file of a release with all figures of the version, as MLflow writes its tables


class ModelArtifact(Artifact[ModelFacts]):
    """A plain Hugging Face folder: config.json, safetensors, tokenizer."""

    kind = "model"
    facts_type = ModelFacts
    is_whole_model = True


class EncoderArtifact(Artifact[EncoderFacts]):
    """A sentence-transformers folder: config.json, safetensors, tokenizer, and `modules.json` that says how states are pooled."""

    kind = "encoder"
    facts_type = EncoderFacts
    is_whole_model = True
    subject = ENCODER


class EncoderGraphArtifact(Artifact[EncoderGraphFacts]):
    """`model.onnx` of an encoder: token ids in, vectors of texts out, tokenizer and `modules.json` beside it."""

    kind = "encoder_onnx"
    facts_type = EncoderGraphFacts
    is_whole_model = True
    is_graph = True
    subject = ENCODER


class ClassifierArtifact(Artifact[ClassifierFacts]):
    """A Hugging Face folder of a classifier of texts: config.json with the names of its classes, safetensors, tokenizer."""

    kind = "classifier"
    facts_type = ClassifierFacts
    is_whole_model = True
    subject = CLASSIFIER


class ClassifierGraphArtifact(Artifact[ClassifierGraphFacts]):
    """`model.onnx` of a classifier: token ids in, logits of the classes out, config and tokenizer beside it."""

    kind = "classifier_onnx"
    facts_type = ClassifierGraphFacts
    is_whole_model = True
    is_graph = True
    subject = CLASSIFIER


class TaggerArtifact(Artifact[ClassifierFacts]):
    """A Hugging Face folder of a tagger of words: config.json with the names of its tags, safetensors, tokenizer."""

    kind = "tagger"
    facts_type = ClassifierFacts
    is_whole_model = True
    subject = TAGGER


class TaggerGraphArtifact(Artifact[ClassifierGraphFacts]):
    """`model.onnx` of a tagger: token ids in, logits of the tags of each token out, config and tokenizer beside it."""

    kind = "tagger_onnx"
    facts_type = ClassifierGraphFacts
    is_whole_model = True
    is_graph = True
    subject = TAGGER


class ImageClassifierArtifact(Artifact[ImageClassifierFacts]):
    """A transformers folder of an image classifier: config.json, safetensors, and `preprocessor_config.json` that says how images are read."""

    kind = "image_classifier"
    facts_type = ImageClassifierFacts
    is_whole_model = True
    subject = IMAGES


class ImageGraphArtifact(Artifact[ImageGraphFacts]):
    """`model.onnx` of an image classifier: pixels in, a logit a class out, `preprocessor_config.json` beside it."""

    kind = "image_onnx"
    facts_type = ImageGraphFacts
    is_whole_model = True
    is_graph = True
    subject = IMAGES


class DenoiserArtifact(Artifact[DenoiserFacts]):
    """A diffusers folder: `model_index.json`, the net in `unet/` or `transformer/` as safetensors, `scheduler/`."""

    kind = "denoiser"
    facts_type = DenoiserFacts
    is_whole_model = True
    subject = DENOISER


class SamplerGraphArtifact(Artifact[SamplerGraphFacts]):
    """`model.onnx` of a denoiser's whole sampler: noise and classes in, images out; the folder's `scheduler/` beside it."""

    kind = "sampler_onnx"
    facts_type = SamplerGraphFacts
    is_whole_model = True
    is_graph = True
    subject = DENOISER


class ImageDatasetArtifact(Artifact[ImageDatasetFacts]):
    """`images.jsonl`: class, part, digest and place of each image; `images.bin`: their encoded bytes; `classes.json`: names."""

    kind = "image_dataset"
    facts_type = ImageDatasetFacts
    subject = IMAGES


class VisionModelArtifact(Artifact[VisionModelFacts]):
    """A vision-language Hugging Face folder with its processor."""

    kind = "vision_model"
    facts_type = VisionModelFacts


class AdapterArtifact(Artifact[AdapterFacts]):
    """A PEFT LoRA adapter folder."""

    kind = "adapter"
    facts_type = AdapterFacts


class DatasetArtifact(Artifact[DatasetFacts]):
    """`rows.jsonl`, `logprobs/` where a teacher recorded some, a data card in `records/`."""

    kind = "dataset"
    facts_type = DatasetFacts
    holds_rows = True


class ScanArtifact(Artifact[ScanFacts]):
    """`windows.csv`: scores of windows of blocks under each metric; `costs.csv`; `greedy.csv`; `parts.csv`; `candidates.csv`."""

    kind = "scan"
    facts_type = ScanFacts


class OnnxArtifact(Artifact[OnnxFacts]):
    """`model.onnx` with external data, config and tokenizer beside it."""

    kind = "onnx"
    facts_type = OnnxFacts
    is_whole_model = True
    is_graph = True


class GgufArtifact(Artifact[GgufFacts]):
    """`model.gguf`: weights, tokenizer and template in one file; a `Modelfile` beside it."""

    kind = "gguf"
    facts_type = GgufFacts
    is_whole_model = True


class OpenVinoArtifact(Artifact[RuntimeFormFacts]):
    """`openvino_model.xml` and `.bin` with the cache inside; tokenizer, detokenizer and config beside them."""

    kind = "openvino"
    facts_type = RuntimeFormFacts
    is_whole_model = True


class CTranslate2Artifact(Artifact[RuntimeFormFacts]):
    """`model.bin`, `config.json` and `vocabulary.json` of CTranslate2; tokenizer beside them."""

    kind = "ctranslate2"
    facts_type = RuntimeFormFacts
    is_whole_model = True


class EvaluationArtifact(Artifact[EvaluationFacts]):
    """`evaluation.json`: quality, size and speed of one model."""

    kind = "evaluation"
    facts_type = EvaluationFacts


class ComparisonArtifact(Artifact[ComparisonFacts]):
    """`comparison.json`: a student's retention of the original, with intervals."""

    kind = "comparison"
    facts_type = ComparisonFacts


class BehaviourArtifact(Artifact[BehaviourFacts]):
    """`behaviour.json`: drops by group of cases, with intervals; `flips.jsonl`: what changed, with both texts."""

    kind = "behaviour"
    facts_type = BehaviourFacts


class FittedArtifact(Artifact[FittedFacts]):
    """`fitted.json`: a number that was fitted on held-out rows. A later stage takes it in place of one of its config."""

    kind = "fitted"
    facts_type = FittedFacts


class ReleaseArtifact(Artifact[ReleaseFacts]):
    """`release.json`: the registered version, its aliases and the gate's verdict."""

    kind = "release"
    facts_type = ReleaseFacts


# What the stages that compress take: a model of any subject, its graph, and what it learns of or is measured on.
AnyModel = ModelArtifact | EncoderArtifact | ClassifierArtifact | TaggerArtifact | ImageClassifierArtifact
AnyGraph = OnnxArtifact | EncoderGraphArtifact | ClassifierGraphArtifact | TaggerGraphArtifact | ImageGraphArtifact
AnyData = DatasetArtifact | ImageDatasetArtifact
Trainable = AnyModel | DenoiserArtifact  # what is trained, folded and exported
Learned = AdapterArtifact | PrefixArtifact | CompressorArtifact  # what a training leaves

# Every class above.
KINDS: dict[str, type[Artifact]] = {kind.kind: kind for kind in Artifact.__subclasses__()}
