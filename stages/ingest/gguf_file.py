"""A GGUF file as it comes in: through transformers' reader, or ours where that leaves out what the header says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attar.registry.artifacts.fingerprint import file_digest
from attar.stages.artifacts.gguf.reading import config_fields, differing_fields, model_of
from attar.stages.artifacts.gguf.reading_tokens import byte_level_tokenizer, has_merges
from attar.stages.artifacts.model.load_report import NO_ADAPTER, one_line, refuse_not_finite, refuse_report
from attar.stages.artifacts.model.tokenizer_files import keep_to_rows
from attar.stages.runtime.progress import note

if TYPE_CHECKING:
    import transformers
    from gguf import GGUFReader  # in an extra

GGUF_BLOCK = re.compile(r"blk\.(\d+)\.")


def load_gguf(path: Path, sha256: str) -> tuple[transformers.PreTrainedModel, Any]:
    """Read a GGUF file as float32: its quantized blocks are expanded, or save_pretrained would refuse."""
    from gguf import GGUFReader  # in the data extra, as transformers' own reader needs it

    if not path.is_file():
        raise ValueError(f"{path} does not exist, or is no plain file")
    if sha256 and file_digest(path) != sha256:
        raise ValueError(f"{path.name} has sha256 {file_digest(path)}, the recipe says {sha256}")
    note(f"reading {path.name}")
    _refuse_other_blocks(path)
    try:
        reader = GGUFReader(path)
        fields = config_fields(reader)
        model = _model(path, reader, fields)
        tokenizer = _tokenizer(path, reader, fields)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{path.name} is damaged, or of a family that is not read: {one_line(error)}") from error
    refuse_not_finite(path.name, model.state_dict())
    return model, keep_to_rows(tokenizer, model.config.vocab_size)


def _model(path: Path, reader: GGUFReader, fields: dict[str, Any] | None) -> transformers.PreTrainedModel:
    """Return the model of a file; ours where transformers reads no such file, or another config than the header says."""
    import transformers  # a second that a plan need not wait for
    from transformers import GgufConfig  # needs the `gguf` package of the data extra

    options: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    if fields is not None:
        if not _reads(str(reader.fields["general.architecture"].contents())):
            note(f"transformers reads no such GGUF file: {fields['model_type']} is read by its header")
            return model_of(reader, fields)
        config = transformers.AutoConfig.from_pretrained(path.parent, **options)
        if differing := differing_fields(config, fields):
            note(f"transformers reads other {', '.join(differing)} than the header says: taken from the header")
            return model_of(reader, fields)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(  # type: ignore[misc] - a pair, by output_loading_info
        path.parent,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        adapter_kwargs=dict(NO_ADAPTER),
        output_loading_info=True,
        **options,
    )
    refuse_report(path.name, report)
    return model


def _tokenizer(path: Path, reader: GGUFReader, fields: dict[str, Any] | None) -> Any:
    from transformers import AutoTokenizer  # a second that a plan need not wait for

    kind = reader.fields.get("tokenizer.ggml.model")
    if fields is not None and kind is not None and kind.contents() == "gpt2":
        is_read = has_merges(reader) and _reads(str(reader.fields["general.architecture"].contents()))
        if not is_read:
            return byte_level_tokenizer(reader)
    options: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    return AutoTokenizer.from_pretrained(path.parent, **options)


def _reads(arch: str) -> bool:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES  # seconds to import

    return arch in GGUF_SUPPORTED_ARCHITECTURES or arch == "qwen3moe"


def _refuse_other_blocks(path: Path) -> None:
    """Raise ValueError where a GGUF header says not how many blocks the file holds: transformers would make others up for seconds."""
    from gguf import GGUFReader  # in the data extra, as transformers' own reader needs it

    try:
        reader = GGUFReader(path)
        name = f"{reader.fields['general.architecture'].contents()}.block_count"
        count = int(reader.fields[name].contents()) if name in reader.fields else None
        numbers = [int(match[1]) for tensor in reader.tensors if (match := GGUF_BLOCK.match(tensor.name))]
    except Exception:  # noqa: BLE001 - a damaged file: what reads the model says how
        return
    if numbers and count != max(numbers) + 1:
        claim = f"says {count} blocks" if count is not None else f"has no {name[:60]}"
        raise ValueError(f"{path.name}: its header {claim}, it holds {max(numbers) + 1} blocks")
