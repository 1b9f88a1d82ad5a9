"""Under which licence a model came: said by its folder's model card or by its GGUF header."""

from __future__ import annotations

from pathlib import Path

from stages.model_source import ModelSource

CARD = "README.md"


def source_license(source: ModelSource, scratch: Path) -> str:
    """Return the licence id that came with a fetched model, such as `apache-2.0`; empty where nothing says."""
    if source.scheme in ("gguf", "wheel"):
        return _header_license(source.path if source.scheme == "gguf" else scratch / source.parts["member"])
    homes = {"folder": source.path, "hub": scratch / "hub", "models": scratch / "registered"}
    home = homes.get(source.scheme)
    return _card_license(home / CARD) if home is not None else ""


def _card_license(card: Path) -> str:
    """Read `license:` from the front matter of a model card."""
    from huggingface_hub.repocard import metadata_load  # only folders with a card need it

    if not card.is_file():
        return ""
    try:
        said = (metadata_load(card) or {}).get("license", "")
    except Exception:  # noqa: BLE001 - a card is prose that anybody may have written
        return ""
    return said if isinstance(said, str) and said != "unknown" else ""


def _header_license(path: Path) -> str:
    from gguf import GGUFReader  # in the data extra, as transformers' own reader needs it

    field = GGUFReader(path).fields.get("general.license")
    return str(field.contents()) if field is not None else ""
