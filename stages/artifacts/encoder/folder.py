"""Read and write the folders of sentence encoders. The whole encoder or a refusal, in the form that sentence-transformers reads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attar.compressors.encode.encoder import Pooling, SentenceEncoder
from attar.compressors.measure.cost import attention_width, num_matmul_parameters, num_parameters
from attar.compressors.models.blocks import decoder_blocks
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import EncoderArtifact, EncoderGraphArtifact
from attar.registry.artifacts.kinds.encoder_facts import EncoderFacts
from attar.stages.artifacts.encoder.latent_tokens import num_latent_tokens
from attar.stages.artifacts.encoder.modules_file import SentenceForm, form_files, read_form, write_form
from attar.stages.artifacts.model.folder import config_facts, quiet_transformers
from attar.stages.artifacts.model.load_report import dtype_of, read_reported, refuse_not_finite, refuse_report
from attar.stages.artifacts.model.older_form import write_older_tokenizer
from attar.stages.artifacts.model.safe_folder import ENCODER_FAMILIES, read_object, refuse_unsafe
from attar.stages.artifacts.model.tokenizer_files import companion_bytes, copy_tokenizer
from attar.stages.artifacts.model.weight_files import stored_tensors

if TYPE_CHECKING:
    import transformers

# A part that some families put behind the last block. No pooling reads it: a folder may lack it.
UNREAD = "pooler."
# What older files hold and every model counts for itself: 0, 1, 2 and so on.
COUNTED = "embeddings.position_ids"


def load_encoder(
    folder: Path,
    dtype: torch.dtype | str = "auto",
    device: torch.device | None = None,
    form: SentenceForm | None = None,
) -> SentenceEncoder:
    """Load a safe encoder folder in evaluation mode. `form`: instead of what the folder says.

    Raises ValueError for an unsafe folder, another kind of model, and unless its weights are all there, finite, and its config's.
    """
    refuse_unsafe(folder)
    refuse_no_encoder(folder)
    form = form or read_form(folder)
    if form is None:
        raise ValueError(f"{folder} has no modules.json, which says how states become vectors")
    model = read_whole(folder, dtype)
    refuse_not_finite(folder, model.state_dict())
    return SentenceEncoder(model.to(device=device) if device is not None else model, form.pooling).eval()  # type: ignore[call-arg]


def refuse_no_encoder(folder: Path) -> None:
    """Raise ValueError unless a folder's config is that of an encoder of a family that is taken."""
    config = read_object(folder / "config.json")
    family, architectures = config.get("model_type"), config.get("architectures") or [""]
    if config.get("is_encoder_decoder") or config.get("is_decoder") or family not in ENCODER_FAMILIES:
        what = str(architectures[0] if isinstance(architectures, list) and architectures else family)
        kind = ", a causal language model" if what.endswith(("ForCausalLM", "LMHeadModel")) else ""
        raise ValueError(
            f"{folder} is a {what or family}{kind}; as an encoder are accepted: {', '.join(ENCODER_FAMILIES)} without a decoder"
        )
    if "quantization_config" in config:
        raise ValueError(f"{folder} holds packed weights (quantization_config); accepted: an encoder in floats")


def save_encoder(
    encoder: SentenceEncoder, folder: Path, form: SentenceForm, tokenizer_from: Path | None = None
) -> EncoderArtifact:
    """Write an encoder as safetensors with its modules and tokenizer files, and return the handle with its facts."""
    quiet_transformers()
    encoder.model.save_pretrained(folder, safe_serialization=True)
    write_form(form, encoder.model.config.hidden_size, folder)
    if tokenizer_from is not None:
        copy_tokenizer(tokenizer_from, folder)
    write_older_tokenizer(folder)
    return EncoderArtifact.at(folder, encoder_facts(encoder.model, form), companion_bytes=companion_bytes(folder))


def form_of(encoder: EncoderArtifact | EncoderGraphArtifact) -> SentenceForm:
    """Return the form of an artifact, as its folder and its facts say it."""
    form = read_form(encoder.path)
    assert form is not None, "an encoder's folder says its form"
    return form


def copy_form(source: Path, folder: Path) -> None:
    """Copy the files that say the form, unchanged."""
    for name in form_files(source):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, folder / name)


def encoder_facts(model: transformers.PreTrainedModel, form: SentenceForm) -> Facts:
    """Return the facts of a loaded encoder."""
    return {**sizes_of(model), **form_facts(form)}


def sizes_of(model: transformers.PreTrainedModel) -> Facts:
    """Return what a loaded model that reads whole texts is by its sizes."""
    blocks = decoder_blocks(model)
    return {
        **config_facts(model.config),
        "num_parameters": num_parameters(model),
        "num_block_parameters": sum(p.numel() for p in blocks.parameters()),
        "num_block_matmul_parameters": sum(p.numel() for p in blocks.parameters() if p.ndim >= 2),
        "num_matmul_parameters": num_matmul_parameters(model),
        "attention_width": attention_width(model.config),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def form_facts(form: SentenceForm) -> Facts:
    """Return what a form adds to an encoder's facts."""
    return {
        "pooling": form.pooling.kind,
        "is_normalized": form.pooling.is_normalized,
        "max_tokens": form.max_tokens,
        **({"num_latent_tokens": count} if (count := num_latent_tokens(form)) else {}),
    }


def folder_facts(folder: Path, form: SentenceForm) -> Facts:
    """Return the facts of an encoder folder from its config.json and the headers of its weights, without memory for them."""
    refuse_unsafe(folder)
    refuse_no_encoder(folder)
    quiet_transformers()
    return {
        **encoder_facts(read_whole(folder, "auto", device_map="meta"), form),
        "companion_bytes": companion_bytes(folder),
    }


def default_form(folder: Path | None, pooling: str, is_normalized: bool | None, max_tokens: int) -> SentenceForm:
    """Return the form that a folder says, with what is asked for instead. By default a mean, not normalized, of all tokens."""
    stored = read_form(folder) if folder is not None else None
    base = stored.pooling if stored is not None else Pooling()
    return SentenceForm(
        pooling=Pooling(
            kind=pooling or base.kind, is_normalized=base.is_normalized if is_normalized is None else is_normalized
        ),
        max_tokens=max_tokens or (stored.max_tokens if stored is not None else 0),
        settings=stored.settings if stored is not None else None,
    )


def described(facts: EncoderFacts) -> str:
    """Return an encoder's form in words, for a note."""
    latent = f", {facts.num_latent_tokens} latent tokens" if facts.num_latent_tokens else ""
    return f"{facts.pooling} pooling{', normalized' if facts.is_normalized else ''}, texts cut at {facts.max_tokens} tokens{latent}"


def read_whole(
    folder: Path, dtype: torch.dtype | str, reader: str = "AutoModel", **options: Any
) -> transformers.PreTrainedModel:
    """Load a folder by transformers' class of that name. Raises ValueError unless its weights are those that its config describes."""
    stored = stored_tensors(folder)  # first: whole files, of which there is one choice
    model, report = read_reported(folder, dtype_of(folder, dtype), reader, **options)
    if not any(UNREAD in name for name in stored) and getattr(model, "pooler", None) is not None:
        # made up while loading, and read by nothing: it is not to be written as if it had been there
        setattr(model, "pooler", None)  # noqa: B010 - of a module, whose members are declared to be others
        report = {**report, "missing_keys": {name for name in report["missing_keys"] if UNREAD not in name}}
    unread = {name for name in report["unexpected_keys"] if name.endswith(COUNTED)}
    refuse_report(folder, {**report, "unexpected_keys": set(report["unexpected_keys"]) - unread})
    return model
