"""How a folder says what is done with a transformer's states: sentence-transformers' `modules.json` and the files that it names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attar.compressors.encode.encoder import POOLINGS, Pooling
from attar.stages.artifacts.model.safe_folder import read_json, read_object

MODULES = "modules.json"
# Names of the classes, the last part of a module's type; what stands before it moved between versions of the library.
TRANSFORMER, POOLING, NORMALIZE = "Transformer", "Pooling", "Normalize"
KNOWN = (TRANSFORMER, POOLING, NORMALIZE)
TYPES = "sentence_transformers.models"
POOLING_FOLDER, NORMALIZE_FOLDER = "1_Pooling", "2_Normalize"
LIMITS = "sentence_bert_config.json"
SETTINGS = "config_sentence_transformers.json"
# Names of the prompts before a query, and before a text of a corpus: the first that is there counts.
PROMPT_NAMES = (("query",), ("document", "passage", "corpus"))
# The library's older form of a pooling: a flag each.
FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


@dataclass(frozen=True, kw_only=True)
class SentenceForm:
    """What a folder says beside the transformer. Its pooling, where texts are cut (0: it does not say), and what is passed on as it is."""

    pooling: Pooling
    max_tokens: int = 0
    settings: Mapping[str, Any] | None = None

    @property
    def prompts(self) -> tuple[str, str]:
        """What stands before a question, and before a text of a corpus, as sentence-transformers chooses them; empty: nothing."""
        known = (self.settings or {}).get("prompts") or {}
        query, document = (next((known[name] for name in names if name in known), "") for names in PROMPT_NAMES)
        return query, document

    def with_prompts(self, query: str | None, document: str | None) -> SentenceForm:
        """Return the form with these prompts; None: as it has them."""
        given = {names[0]: prompt for names, prompt in zip(PROMPT_NAMES, (query, document), strict=True)}
        given = {name: prompt for name, prompt in given.items() if prompt is not None}
        if not given:
            return self
        settings = dict(self.settings) if self.settings is not None else _settings()
        return replace(self, settings={**settings, "prompts": {**(settings.get("prompts") or {}), **given}})


def read_form(folder: Path) -> SentenceForm | None:
    """Return the form of a sentence-transformers folder; None for one of a transformer alone.

    Raises ValueError for modules that are not a transformer, a pooling and a normalization, or a pooling that is not taken.
    """
    if not (folder / MODULES).exists():
        return None
    modules = _modules(folder)
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    if kinds[:2] != [TRANSFORMER, POOLING] or kinds[2:] not in ([], [NORMALIZE]) or modules[0].get("path"):
        raise ValueError(
            f"{folder}: {MODULES} lists {', '.join(kinds) or 'nothing'}; accepted: Transformer, Pooling and, if it is to be, Normalize, "
            "the transformer in the folder itself"
        )
    if _limits(folder).get("do_lower_case"):
        raise ValueError(f"{folder}: {LIMITS} asks for do_lower_case; accepted: a tokenizer that does it itself")
    settings = read_object(folder / SETTINGS) if (folder / SETTINGS).exists() else None
    if settings and settings.get("default_prompt_name"):
        raise ValueError(
            f"{folder}: {SETTINGS} puts the prompt {settings['default_prompt_name']!r} before every text; accepted: no default prompt"
        )
    prompts = (settings or {}).get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise ValueError(f"{folder}: {SETTINGS} has prompts {str(prompts)[:60]}; accepted: a text for each name")
    kind = _pooling_kind(folder, folder / str(modules[1].get("path", "")) / "config.json")
    return SentenceForm(
        pooling=Pooling(kind=kind, is_normalized=kinds[2:] == [NORMALIZE]),
        max_tokens=stored_limit(folder),
        settings=settings,
    )


def stored_limit(folder: Path) -> int:
    """Return where a folder of sentence-transformers says that texts are cut; 0 where it does not. Raises ValueError for what is no count."""
    longest = _limits(folder).get("max_seq_length")
    if longest is None:
        return 0
    if isinstance(longest, bool) or not isinstance(longest, int) or longest < 1:
        raise ValueError(
            f"{folder}: {LIMITS} gives max_seq_length {str(longest)[:40]!r}; accepted: a number of tokens, from 1, or null"
        )
    return longest


def write_form(form: SentenceForm, width: int, folder: Path) -> None:
    """Write the files by which `SentenceTransformer(folder)` pools and cuts as the form says, for all its versions."""
    parts = [(TRANSFORMER, ""), (POOLING, POOLING_FOLDER)]
    parts += [(NORMALIZE, NORMALIZE_FOLDER)] if form.pooling.is_normalized else []
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"{TYPES}.{kind}"}
        for index, (kind, path) in enumerate(parts)
    ]
    _write(folder / MODULES, modules)
    flags = {flag: kind == form.pooling.kind for kind, flag in FLAGS.items() if kind in POOLINGS}
    _write(folder / POOLING_FOLDER / "config.json", {"word_embedding_dimension": width, **flags})
    if form.pooling.is_normalized:  # an empty folder, which no store keeps
        _write(folder / NORMALIZE_FOLDER / "config.json", {})
    _write(folder / LIMITS, {"max_seq_length": form.max_tokens, "do_lower_case": False})
    _write(folder / SETTINGS, dict(form.settings) if form.settings is not None else _settings())


def form_files(folder: Path) -> list[Path]:
    """Return the files that `write_form` wrote, relative to the folder."""
    names = [MODULES, f"{POOLING_FOLDER}/config.json", f"{NORMALIZE_FOLDER}/config.json", LIMITS, SETTINGS]
    return [Path(name) for name in names if (folder / name).is_file()]


def _modules(folder: Path) -> list[dict[str, Any]]:
    modules = read_json(folder / MODULES)
    is_list = isinstance(modules, list) and all(isinstance(module, dict) and "type" in module for module in modules)
    if not is_list or not all(_is_inside(str(module.get("path", ""))) for module in modules):
        raise ValueError(
            f"{folder / MODULES} is no list of modules, each with a type and a path inside the folder; refused"
        )
    return modules


def _limits(folder: Path) -> dict[str, Any]:
    return read_object(folder / LIMITS) if (folder / LIMITS).exists() else {}


def _is_inside(path: str) -> bool:
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def _pooling_kind(folder: Path, path: Path) -> str:
    if not path.exists():
        raise ValueError(f"{folder}: {MODULES} names a pooling, but {path.relative_to(folder)} is not there")
    config = read_object(path)
    mode = config.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else [kind for kind, flag in FLAGS.items() if config.get(flag)]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ValueError(
            f"{folder}: {path.relative_to(folder)} pools by {' and '.join(map(str, modes)) or 'nothing'}; accepted: one of "
            f"{', '.join(POOLINGS)}"
        )
    if config.get("include_prompt") is False:
        raise ValueError(
            f"{folder}: {path.relative_to(folder)} leaves prompts out of the mean; accepted: include_prompt true"
        )
    return modes[0]


def _settings() -> dict[str, Any]:
    # no version: which library wrote it is not what a reader wants to know here
    return {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
