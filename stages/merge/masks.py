"""What a merge keeps of students that fill masks. The entry of config.json by which the model is read, and its facts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from attar.compressors.masked.form import CONFIG_KEY, MaskedForm
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.subjects import MASK_BLOCK
from attar.stages.artifacts.model.folder import load_tokenizer

FACTS = ("mask_token", MASK_BLOCK)


def merged_masks(students: Sequence[Facts], *, is_searched: bool = False) -> Facts:
    """Return the facts of filling masks that all students share; none where they write from left to right.

    Raises ValueError for students of both ways, and for a search, whose trials are judged by what they write from left to right.
    """
    every = [{name: student[name] for name in FACTS if name in student} for student in students]
    if any(own != every[0] for own in every):
        ways = ["blocks of {mask_block_size} with {mask_token!r}".format(**own) if own else "none" for own in every]
        raise ValueError(f"students: the masks that they fill are {', '.join(ways)}; accepted: the same of all")
    if every[0] and is_searched:
        raise ValueError(
            "search: its trials write from left to right, and the students fill masks; accepted: no search"
        )
    return every[0]


def write_masks(folder: Path, students: Sequence[Facts]) -> Facts:
    """Write into a merged folder's config.json how it fills masks, if it does, and return the facts of it."""
    masks = merged_masks(students)
    if not masks:
        return masks
    token = str(masks["mask_token"])
    form = MaskedForm(
        mask_token=token,
        mask_token_id=load_tokenizer(folder).get_vocab()[token],
        block_size=int(masks[MASK_BLOCK]),
    )
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {CONFIG_KEY: form.entry()}, indent=2) + "\n")
    return masks
