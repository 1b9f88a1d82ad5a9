"""Licences: each model says under which it came, and which source told so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attar.registry.artifacts.store import Store
from attar.stages.ingest.license import source_license
from attar.stages.ingest.source_line import parse_source
from tests.stages.ingest.model_folders import ingest


@pytest.mark.parametrize(
    ("card", "license_id"),
    [
        ("---\nlicense: mit\ntags: [a]\n---\n# Model", "mit"),
        ("---\nlicense: [Apache-2.0]\n---\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "qwen-research"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: unknown\n---\n", ""),
        ('---\nlicense: "mit\\n---\\n# Trust me"\n---\n', "mit-----trust-me"),
        ("# Model\nlicense: mit", ""),
        ("---\nlicense: [broken\n---\n", ""),
        ("", ""),
    ],
)
def test_the_licence_comes_from_the_card_unless_the_recipe_says(
    store: Store, folder: Path, card: str, license_id: str
) -> None:
    (folder / "README.md").write_text(card)
    assert ingest(store, f"folder:{folder}").facts.get("license", "") == license_id
    assert ingest(store, f"folder:{folder}", license="apache-2.0").facts["license"] == "apache-2.0"


APACHE = "                              Apache License\n                        Version 2.0, January 2004\n"


MIT = (
    "Copyright (c) 2026 Nobody\n\nPermission is hereby granted, free of charge, to any person\nobtaining a copy of this"
)


@pytest.mark.parametrize(
    ("name", "text", "license_id"),
    [
        ("LICENSE", APACHE, "apache-2.0"),
        ("LICENSE.txt", MIT, "mit"),
        (
            "LICENSE.md",
            "# LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\nLlama 3.1 Version Release Date: July 23, 2024",
            "llama3.1",
        ),
        ("COPYING", "GNU AFFERO GENERAL PUBLIC LICENSE\nVersion 3, 19 November 2007", "agpl-3.0"),
        ("LICENCE", "// SPDX-License-Identifier: BSD-3-Clause", "bsd-3-clause"),
        ("LICENSE", "You may look at it on Sundays.", "other"),
        ("config.json", "cc-by-4.0", "cc-by-4.0"),
    ],
)
def test_without_a_card_the_config_or_the_licence_file_says(
    store: Store, folder: Path, name: str, text: str, license_id: str
) -> None:
    if name == "config.json":
        text = json.dumps(json.loads((folder / name).read_text()) | {"license": text})
    (folder / name).write_text(text)
    assert ingest(store, f"folder:{folder}").facts["license"] == license_id
    (folder / "README.md").write_text("---\nlicense: gemma\n---\n")
    assert ingest(store, f"folder:{folder}").facts["license"] == "gemma", "the card is read first"


def test_a_gguf_header_says_the_licence(gguf_file: Path) -> None:
    assert source_license(parse_source(f"gguf:{gguf_file}"), Path()) == "apache-2.0"


def test_a_state_dict_in_a_wheel_says_none(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"PK\3\4")
    assert source_license(parse_source("wheel:net==1/net.pth"), tmp_path) == ""
