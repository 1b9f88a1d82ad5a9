"""The GGUF form of a model: one file, written tensor by tensor, read back and compared with torch."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.environment import attar_home
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import Artifact, GgufArtifact
from attar.registry.artifacts.lineage import in_order, trace
from attar.registry.artifacts.manifest import CorruptArtifactError
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.gguf.element_types import ELEMENT_TYPES, file_type, fitting_type
from attar.stages.artifacts.gguf.families import refuse_other_families
from attar.stages.artifacts.gguf.ggml_library import INSTALL, find_library
from attar.stages.artifacts.gguf.header import Architecture, Origin, architecture_of
from attar.stages.artifacts.gguf.tensors import PlannedTensor, fallback_fraction, plan_tensors, with_importance
from attar.stages.artifacts.gguf.vocabulary import CONTROL, Vocabulary, vocabulary_of
from attar.stages.artifacts.gguf.writer import MODEL, check_written, write_gguf
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.model.size_forecast import stored_bytes
from attar.stages.artifacts.model.turn_end import all_ends
from attar.stages.contract import Forecast
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.formats.gguf import GgufFormat
from attar.stages.export.gguf.importance import measure_importance
from attar.stages.export.gguf.modelfile import modelfile
from attar.stages.export.gguf.proof import able_runtimes, prove_by_transformers, read_weights
from attar.stages.export.gguf.transformers_reader import reads_family
from attar.stages.export.proof.prompts import proof_prompts
from attar.stages.export.proof.rounding import measure_rounding, record_answers
from attar.stages.export.proof.runtimes import LLAMA_CPP, OPENVINO
from attar.stages.export.proof.shape import shape_of
from attar.stages.export.proof.tokens import Prompts, prove_by_runtimes
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import metric, note

MODELFILE, PROOF = "Modelfile", "proof.json"
# Of a model whose licence is not known; no key is written then.
UNKNOWN_LICENSES = ("", "unknown")
HUB = "https://huggingface.co"


def forecast_gguf(form: GgufFormat, model: Facts) -> Forecast:
    """Return what the file will be and take. Raises ValueError for a family that GGUF has no name for, and without its package."""
    if importlib.util.find_spec("gguf") is None:
        raise ValueError("format.kind is 'gguf', which needs the package gguf: install attar[gguf]")
    _refuse_no_library(form)
    if "architecture" in model:
        refuse_other_families(str(model["architecture"]))
    _refuse_width(form, model)
    num_numbers = float(model.get("num_parameters", 0))
    num_bytes = num_numbers * ELEMENT_TYPES[form.weights].bits / 8
    facts = {**shape_of(model), "format": "gguf", "quantization": form.weights, "weight_bytes": num_bytes}
    # the proof holds the float32 model twice, once as the folder has it and once as a reader of the file gives it
    return Forecast(facts, peak_memory_bytes=9.0 * num_numbers, disk_bytes=stored_bytes(facts))


def _refuse_width(form: GgufFormat, model: Facts) -> None:
    """Raise ValueError where the embedding alone, whose rows are as wide as the model, is more than may fall back."""
    if not model.keys() >= {"hidden_size", "vocab_size", "num_parameters"}:
        return
    width, ends = int(model["hidden_size"]), form.weights if form.ends == "same" else form.ends
    fraction = width * int(model["vocab_size"]) / float(model["num_parameters"])
    if fitting_type(ends, width) != ends and fraction > form.max_fallback_fraction:
        raise ValueError(
            f"format.weights is {form.weights!r}, but rows of {width} numbers are not whole blocks of {ELEMENT_TYPES[ends].block}: "
            f"the embedding, {fraction:.0%} of the weights, would fall back to {fitting_type(ends, width)}; accepted: weights f16, bf16, f32, "
            "or a larger max_fallback_fraction"
        )


def _refuse_no_library(form: GgufFormat) -> None:
    """Raise ValueError where llama.cpp's library is to round and is not there."""
    needing = [name for name in (form.weights, form.ends) if name != "same" and ELEMENT_TYPES[name].needs_library]
    if (needing or form.importance) and find_library() is None:
        what = f"format.weights is {needing[0]!r}, which" if needing else "format.importance"
        without = ", ".join(name for name, kind in ELEMENT_TYPES.items() if not kind.needs_library)
        raise ValueError(f"{what} needs llama.cpp's library: {INSTALL}; accepted without it: {without}")


@dataclass(frozen=True)
class _Plan:
    """What is written: decided, and refused, before anything is."""

    architecture: Architecture
    tensors: list[PlannedTensor]
    vocabulary: Vocabulary
    tokenizer: Any
    ends: tuple[int, ...]

    @property
    def stops(self) -> set[int]:
        """Tokens at which a runtime may stop: llama.cpp does at any that is named like an end of text."""
        return {*self.ends, *(index for index, kind in enumerate(self.vocabulary.kinds) if kind == CONTROL)}

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.num_bytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.weight_bytes / sum(tensor.num_numbers for tensor in self.tensors)


def export_gguf(form: GgufFormat, config: ExportConfig, inputs: ExportInputs, workdir: Path) -> GgufArtifact:
    """Write the file, read it back, and have readers that share no code with the writer write what torch writes.

    Raises ValueError for what GGUF cannot say, too much that blocks do not divide, and a reader that makes another model of the file.
    """
    content = workdir / "content"
    content.mkdir(parents=True, exist_ok=True)
    prompts = proof_prompts(inputs, config.num_prompts)
    plan = _plan(form, inputs)
    path = content / MODEL
    digests = write_gguf(path, plan.architecture, _origin(form, inputs.model), plan.tensors, plan.vocabulary.add_to)
    check_written(path, plan.tensors, digests)
    adds_bos = plan.vocabulary.adds_bos
    (content / MODELFILE).write_text(modelfile(plan.tokenizer, plan.ends, MODEL, adds_bos=adds_bos))
    give_back()
    facts = _proved(form, config, inputs, plan, path, prompts, workdir)
    (content / PROOF).write_text(json.dumps(facts, indent=1))
    sizes = {"weight_bytes": float(plan.weight_bytes), "bits_per_weight": plan.bits_per_weight}
    metric("bits_per_weight", plan.bits_per_weight)
    return GgufArtifact.at(
        content,
        {
            **shape_of(inputs.model.facts),
            "format": "gguf",
            "architecture": plan.architecture.family.arch,
            "quantization": form.weights,
            "fallback_fraction": fallback_fraction(plan.tensors),
            **sizes,
            **facts,
        },
    )


def _plan(form: GgufFormat, inputs: ExportInputs) -> _Plan:
    """Decide what is written. Raises ValueError before anything is."""
    from transformers import AutoConfig  # a second that a plan need not wait for

    folder = inputs.model.path
    model_config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    architecture = architecture_of(model_config)
    ends = form.weights if form.ends == "same" else form.ends
    is_tied = bool(model_config.tie_word_embeddings)
    tensors = plan_tensors(folder, architecture, weights=form.weights, ends=ends, is_tied=is_tied)
    _tell_fallbacks(form, tensors)
    if form.importance:
        tensors = with_importance(tensors, measure_importance(form.importance, inputs))
    tokenizer = load_tokenizer(folder)
    vocabulary = vocabulary_of(tokenizer, folder, model_config.vocab_size)
    return _Plan(architecture, tensors, vocabulary, tokenizer, tuple(all_ends(tokenizer, folder)))


def _tell_fallbacks(form: GgufFormat, tensors: Sequence[PlannedTensor]) -> None:
    """Say what is not in the type that was asked for. Raises ValueError past the limit."""
    changed = [tensor for tensor in tensors if tensor.kind != tensor.wanted]
    fraction = fallback_fraction(list(tensors))
    bits = 8 * sum(tensor.num_bytes for tensor in tensors) / sum(tensor.num_numbers for tensor in tensors)
    if not changed:
        note(f"{bits:.2f} bits a weight")
        return
    widths = ", ".join(map(str, sorted({tensor.shape[-1] for tensor in changed})[:4]))
    kinds = " and ".join(sorted({tensor.kind for tensor in changed}))
    what = (
        f"{len(changed)} matrices with rows of {widths} numbers are not whole blocks of {ELEMENT_TYPES[changed[0].wanted].block} and fall "
        f"back to {kinds}: {fraction:.1%} of the weights, {bits:.2f} bits a weight in all"
    )
    if fraction > form.max_fallback_fraction:
        raise ValueError(
            f"format.weights is {form.weights!r}, but {what}; accepted: max_fallback_fraction {form.max_fallback_fraction:g} or less, "
            "or weights f16, bf16, f32"
        )
    note(what)


def _proved(
    form: GgufFormat,
    config: ExportConfig,
    inputs: ExportInputs,
    plan: _Plan,
    path: Path,
    prompts: Prompts,
    workdir: Path,
) -> dict[str, Any]:
    """Prove the file and return what was seen, by the names of facts."""
    model = load_model(inputs.model.path, torch.float32)
    answers = record_answers(TorchRunner(model), prompts, config.num_new_tokens, workdir / "logits")
    read_weights(model, plan.architecture, path)  # in place, so that there is one model in memory
    rounding = measure_rounding(TorchRunner(model), answers, weights=form.weights, max_kl_nats=form.max_kl_nats)
    facts: dict[str, Any] = asdict(rounding)
    readers = ["gguf"]
    if reads_family(plan.architecture):
        parity = prove_by_transformers(config, model, path, inputs.model.path, prompts, workdir / "read")
        facts |= {"token_agreement": parity.token_agreement, "max_logit_difference": parity.max_logit_difference}
        readers.append("transformers")
    else:
        note(
            f"transformers reads no GGUF file of {plan.architecture.family.arch}: a runtime alone can tell of its logits"
        )
    decides = ELEMENT_TYPES[form.weights].is_near_float and form.ends in ("same", "f32", "f16", "bf16", "q8_0")
    runtimes = able_runtimes((LLAMA_CPP, OPENVINO), plan.tensors)
    reference = TorchRunner(model)
    for proof in prove_by_runtimes(
        config, reference, path, prompts, runtimes=runtimes, ends=plan.stops, decides=decides
    ):
        readers.append(proof.name)
        facts.setdefault("token_agreement", proof.token_agreement)
        facts.setdefault("decode_seconds_per_token", proof.seconds_per_token)
    return {**facts, "readers": tuple(readers)}


def _origin(form: GgufFormat, model: Artifact) -> Origin:
    """Return where the file comes from, as far as the store knows: the stages behind its model and the source of the first."""
    try:
        ancestors = in_order(trace(Store(attar_home()), model))
    except (CorruptArtifactError, OSError):  # a folder that a caller gave
        ancestors = []
    steps = tuple(ancestor.stage for ancestor in ancestors if ancestor.kind in ("model", "adapter"))
    source = next(
        (str(ancestor.config.get("source", "")) for ancestor in ancestors if ancestor.stage == "ingest_model"), ""
    )
    scheme, _, rest = source.partition(":")
    is_hub = scheme == "hub"
    base = rest.partition("@")[0] if is_hub else rest.rpartition("/")[2].removesuffix(".gguf")
    license_id = str(model.facts.get("license", ""))
    return Origin(
        name=base or model.fingerprint[:12] or "model",
        license="" if license_id in UNKNOWN_LICENSES else license_id,
        fingerprint=model.fingerprint,
        steps=steps,
        base_name=base,
        base_url=f"{HUB}/{base}" if is_hub else "",
        file_type=file_type(form.weights),
    )
