"""Under which licence a model came: said by its model card, its config, its licence file or its GGUF header."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from attar.stages.artifacts.model.safe_folder import MAX_TEXT_BYTES, read_object
from attar.stages.ingest.source_line import ModelSource

CARD = "README.md"
# What says that there is a licence without naming one of the known.
OTHER = "other"
MAX_ID_CHARS = 64
LICENSE_FILES = ("LICENSE", "LICENCE", "COPYING")
SPDX = re.compile(r"SPDX-License-Identifier:\s*([\w.+-]+)")
# What stands at the beginning of a licence's text, lower case; the first row whose phrases all do names it.
OPENINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("apache-2.0", ("apache license", "version 2.0")),
    ("llama3.3", ("llama 3.3 community license",)),
    ("llama3.2", ("llama 3.2 community license",)),
    ("llama3.1", ("llama 3.1 community license",)),
    ("llama3", ("llama 3 community license",)),
    ("llama2", ("llama 2 community license",)),
    ("gemma", ("gemma terms of use",)),
    ("agpl-3.0", ("gnu affero general public license", "version 3")),
    ("lgpl-3.0", ("gnu lesser general public license", "version 3")),
    ("gpl-3.0", ("gnu general public license", "version 3")),
    ("gpl-2.0", ("gnu general public license", "version 2")),
    ("mpl-2.0", ("mozilla public license", "version 2.0")),
    ("cc-by-nc-sa-4.0", ("attribution-noncommercial-sharealike 4.0",)),
    ("cc-by-nc-4.0", ("attribution-noncommercial 4.0",)),
    ("cc-by-sa-4.0", ("attribution-sharealike 4.0",)),
    ("cc-by-4.0", ("attribution 4.0 international",)),
    ("cc0-1.0", ("cc0 1.0 universal",)),
    ("mit", ("permission is hereby granted, free of charge, to any person obtaining a copy",)),
    ("bsd-3-clause", ("redistribution and use in source and binary forms", "neither the name")),
    ("bsd-2-clause", ("redistribution and use in source and binary forms",)),
)
OPENING_CHARS = 1500
# Of a licence's text, which a folder may hold any file as.
MAX_TEXT_CHARS = 1_000_000


def source_license(source: ModelSource, scratch: Path) -> str:
    """Return the licence id that came with a fetched model, such as `apache-2.0`. Empty where nothing says, `other` where it is none known."""
    if source.scheme in ("gguf", "wheel"):
        path = source.path if source.scheme == "gguf" else scratch / source.parts["member"]
        if path.is_dir():
            return folder_license(path)
        return _license_id(_header_license(path)) if path.suffix == ".gguf" else ""
    homes = {"folder": source.path, "tower": source.path, "hub": scratch / "hub", "models": scratch / "registered"}
    home = homes.get(source.scheme)
    return folder_license(home) if home is not None else ""


def folder_license(folder: Path) -> str:
    """Return the licence id that a model folder names, the card before the config before the licence's own text. Empty: none."""
    return _card_license(folder / CARD) or _config_license(folder / "config.json") or _text_license(folder)


def _card_license(card: Path) -> str:
    """Read `license:` from the front matter of a model card; `license_name:` where that says `other`."""
    from huggingface_hub.repocard import metadata_load  # only folders with a card need it

    if not card.is_file() or card.stat().st_size > MAX_TEXT_BYTES:
        return ""
    try:
        front = metadata_load(card) or {}
    except Exception:  # noqa: BLE001 - a card is prose that anybody may have written
        return ""
    license_id = _license_id(front.get("license"))
    return (_license_id(front.get("license_name")) or license_id) if license_id == OTHER else license_id


def _config_license(config: Path) -> str:
    return _license_id(read_object(config).get("license")) if config.is_file() else ""


def _text_license(folder: Path) -> str:
    """Know the licence by how its text begins."""
    paths = [path for path in sorted(folder.glob("*")) if path.is_file() and path.stem.upper() in LICENSE_FILES]
    if not paths:
        return ""
    with paths[0].open(errors="replace") as stream:
        text = stream.read(MAX_TEXT_CHARS)
    if match := SPDX.search(text):
        return _license_id(match[1])
    opening = " ".join(text.lower().split())[:OPENING_CHARS]
    return next((name for name, phrases in OPENINGS if all(phrase in opening for phrase in phrases)), OTHER)


def _license_id(value: Any) -> str:
    """Return what was said as an id: it goes into the front matter of cards, where a line of somebody else's has no place."""
    if isinstance(value, list) and len(value) == 1:
        [value] = value
    if not isinstance(value, str) or value.strip().lower() in ("", "unknown"):
        return ""
    return re.sub(r"[^\w.+-]+", "-", value.strip().lower()).strip("-")[:MAX_ID_CHARS]


def _header_license(path: Path) -> str:
    from gguf import GGUFReader  # in the data extra, as transformers' own reader needs it

    field = GGUFReader(path).fields.get("general.license")
    return str(field.contents()) if field is not None else ""
