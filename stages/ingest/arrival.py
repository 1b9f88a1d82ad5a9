"""Notes on a model as it comes in. What was left out, which dtype was chosen, what its tokenizer and template cannot do."""

from __future__ import annotations

from pathlib import Path

from attar.registry.artifacts.facts import Facts
from attar.stages.artifacts.model.safe_folder import read_object
from attar.stages.artifacts.model.tokenizer_files import without_rows
from attar.stages.artifacts.model.weight_files import FLOATS, left_out_files, named, stored_dtype
from attar.stages.ingest.chat_traits import chat_traits
from attar.stages.ingest.source_line import FetchedModel
from attar.stages.runtime.progress import note


def arrival_facts(fetched: FetchedModel) -> Facts:
    """Tell what a user should know of a model before it is worked on, and return it as facts.

    Raises ValueError when the tokenizer begins or ends every text with a token that the model has no row for.
    """
    if fetched.folder is not None:
        _tell_left_out(fetched.folder)
        _tell_dtype(fetched.folder, str(fetched.model.dtype).removeprefix("torch."))
    facts, lines = chat_traits(fetched.tokenizer)
    for line in lines:
        note(line)
    return {**facts, **_row_facts(fetched)}


def _tell_left_out(folder: Path) -> None:
    if left_out := left_out_files(folder):
        is_adapter = any(name.startswith("adapter") for name in left_out)
        what = "the model is taken without the adapter beside it" if is_adapter else "not of this model's weights"
        note(f"{what}: left out {named(left_out, 'files')}")


def _tell_dtype(folder: Path, dtype: str) -> None:
    config = read_object(folder / "config.json")
    if "quantization_config" in config:
        return
    _, counts = stored_dtype(folder)
    stored = ", ".join(f"{count} of {name}" for name, count in counts.items())
    if not (config.get("dtype") or config.get("torch_dtype")):
        note(f"config.json names no dtype; the tensors are {stored}: taken as {dtype}, which rounds none of them")
        return
    names = {name for name, kind in FLOATS.items() if str(kind).removeprefix("torch.") != dtype}
    if others := {name: counts[name] for name in sorted(names) if name in counts}:
        count = ", ".join(f"{number} tensors stored as {name}" for name, number in others.items())
        note(f"config.json says {dtype}: {count} are converted to it, as every reader does")


def _row_facts(fetched: FetchedModel) -> Facts:
    rows, beyond = int(fetched.model.config.vocab_size), without_rows(fetched.tokenizer)
    for role in ("bos_token", "eos_token"):
        if getattr(fetched.tokenizer, f"{role}_id") in beyond:
            token = getattr(fetched.tokenizer, role)
            raise ValueError(f"the tokenizer's {role} {token!r} has no row in the model's embedding of {rows} rows")
    if not beyond:
        return {}
    tokens = named([repr(token) for token in beyond.values()], "tokens")
    note(f"the tokenizer knows {tokens}, the embedding has {rows} rows: a text with such a token will be refused")
    return {"num_tokens_without_row": len(beyond)}
