"""Read a vision-language model's folder. Its language tower is taken out as a plain causal folder, and put back."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from attar.stages.artifacts.model.folder import quiet_transformers
from attar.stages.artifacts.model.load_report import read_reported, refuse_not_finite, refuse_report
from attar.stages.artifacts.model.safe_folder import read_object, refuse_unsafe
from attar.stages.artifacts.model.tokenizer_files import copy_tokenizer, tokenizer_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# What turns a picture into numbers: without one of these the model cannot be asked about any.
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
# Names that families give the language tower within the inner model.
TOWERS = ("language_model", "text_model")
# Towers without a class of their own for text alone, and the family that computes the same on text: positions along time, height and
# width are then one and the same. Held to it by `rejoin`.
PLAIN_FAMILIES = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2"}
# Of a config, what says where it came from and not what the model is.
NOT_SETTINGS = {"model_type", "architectures", "dtype", "transformers_version", "_name_or_path", "tie_word_embeddings"}


def load_vision_model(folder: Path) -> PreTrainedModel:
    """Load a vision-language model in its stored dtype. Raises ValueError in one line unless it is whole and its processor is there."""
    refuse_no_vision_model(folder)
    quiet_transformers()
    model, report = read_reported(folder, "auto", "AutoModelForImageTextToText")
    refuse_report(folder, report)
    refuse_not_finite(folder, model.state_dict())
    return model.eval()


def refuse_no_vision_model(folder: Path) -> None:
    """Raise ValueError unless a folder is safe and, as its config says, a vision-language model with its processor."""
    # a second that a plan need not wait for
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    refuse_unsafe(folder)
    family = read_object(folder / "config.json").get("model_type")
    if not isinstance(family, str) or family not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ValueError(f"{folder}: model type {family!r} is no vision-language model that transformers knows")
    if not any((folder / name).is_file() for name in PROCESSORS):
        raise ValueError(
            f"{folder} has no processor: none of {', '.join(PROCESSORS)} is there; a picture cannot be read without"
        )


def write_tower(folder: Path, target: Path) -> None:
    """Write the language tower of a vision-language folder as a causal folder. Raises ValueError for one that is none by itself."""
    whole = load_vision_model(folder)
    config, prefix = tower_config(whole), tower_prefix(whole)
    state = {f"model.{name}": tensor for name, tensor in whole.get_submodule(prefix).state_dict().items()}
    if not config.tie_word_embeddings:
        state["lm_head.weight"] = _head(whole).weight.detach()
    target.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()},
        target / "model.safetensors",
        metadata={"format": "pt"},
    )
    config.save_pretrained(target)
    if (folder / "generation_config.json").is_file():
        shutil.copy2(folder / "generation_config.json", target)
    copy_tokenizer(folder, target)


def tower_config(whole: PreTrainedModel) -> PretrainedConfig:
    """Return the config of a causal model that computes what the language tower computes on text."""
    import transformers  # a second that a plan need not wait for
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    text = getattr(whole.config, "text_config", None)
    if text is None:
        raise ValueError(f"{type(whole).__name__}: its config has no text_config, which describes a language tower")
    family = PLAIN_FAMILIES.get(text.model_type, text.model_type)
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(family)
    if name is None:
        raise ValueError(f"{type(whole).__name__}: its language tower {text.model_type!r} is no causal model by itself")
    settings = {key: value for key, value in text.to_dict().items() if key not in NOT_SETTINGS}
    head, embedding = _head(whole), whole.get_input_embeddings()
    config = transformers.AutoConfig.for_model(
        str(family), **settings, tie_word_embeddings=head.weight is embedding.weight
    )
    config.architectures, config.dtype = [name], whole.dtype
    return config


def tower_prefix(whole: PreTrainedModel) -> str:
    """Return the path of the language tower within the whole."""
    for name in TOWERS:
        if isinstance(getattr(whole.base_model, name, None), nn.Module):
            return f"{whole.base_model_prefix}.{name}"
    raise ValueError(f"{type(whole).__name__}: no language tower of a known name; accepted: {', '.join(TOWERS)}")


def with_tower(whole: PreTrainedModel, tower: PreTrainedModel) -> PreTrainedModel:
    """Return the whole with another language tower, the sizes in its text config the tower's. All else is the same tensors."""
    config, before = copy.deepcopy(whole.config), tower_config(whole).to_dict()
    for name, value in tower.config.to_dict().items():
        if name not in NOT_SETTINGS and before.get(name) != value:
            setattr(config.text_config, name, value)
    rejoined = type(whole)._from_config(config, dtype=whole.dtype)
    prefix, head = tower_prefix(whole), _head(tower)
    state = {
        name: tensor for name, tensor in whole.state_dict().items() if not name.startswith((f"{prefix}.", "lm_head."))
    }
    state |= {f"{prefix}.{name}": tensor for name, tensor in tower.base_model.state_dict().items()}
    state["lm_head.weight"] = head.weight
    missing, unexpected = rejoined.load_state_dict(state, strict=False, assign=True)
    if missing or unexpected:
        raise ValueError(
            f"{type(whole).__name__}: its tower does not fit back: {', '.join([*missing, *unexpected][:3])}"
        )
    rejoined.tie_weights()
    rejoined.generation_config = whole.generation_config
    return rejoined.eval()


def outside_tower(whole: PreTrainedModel) -> dict[str, Tensor]:
    """Return the tensors that are none of the language tower's: picture tower, projector and the like."""
    prefix = tower_prefix(whole)
    return {
        name: tensor for name, tensor in whole.state_dict().items() if not name.startswith((f"{prefix}.", "lm_head."))
    }


@torch.no_grad()
def text_logits(model: PreTrainedModel, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
    """Return the logits of text alone, in float32."""
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float()


def plain_ids(config: Any, ids: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Return token ids of which none stands for a picture."""
    marks = [
        value
        for name, value in config.to_dict().items()
        if name.endswith(("token_id", "token_index")) and isinstance(value, int)
    ]
    plain = next(index for index in range(config.text_config.vocab_size) if index not in marks)
    return torch.where(torch.isin(ids, torch.tensor(marks)), plain, ids)


def copy_companions_of_pictures(source: Path, folder: Path) -> None:
    """Copy tokenizer, templates and processor of a vision-language folder."""
    copy_tokenizer(source, folder)
    known = {path.name for path in tokenizer_files(source)}
    for name in (*PROCESSORS, "video_preprocessor_config.json", "generation_config.json"):
        if (source / name).is_file() and name not in known:
            shutil.copy2(source / name, folder / name)


def _head(model: PreTrainedModel) -> nn.Linear:
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ValueError(f"{type(model).__name__}: no output matrix found; not a causal model")
    return head
