"""The first page is short and true, the tree names every folder, and nothing names a private place."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from docs.generate.readme import PICTURE, picture
from docs.generate.results import COMMENT, with_blocks
from docs.generate.tree import folders

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.split()


def test_the_first_page_is_short() -> None:
    assert len(README.encode()) <= 8 * 1024
    assert "make demo" in README and "make test" in README


def test_its_picture_and_its_table_are_those_of_the_recipe_and_of_the_result() -> None:
    """Made anew by `python -m docs.generate.readme`."""
    assert PICTURE.read_text() == picture()
    assert COMMENT.search(README) and with_blocks(README) == README


def test_the_tree_says_what_every_folder_holds() -> None:
    unexplained = [path for path, words in folders().items() if not words]
    assert not unexplained, "a docstring in its __init__.py, or a line in docs/generate/tree.py"
    named = set(folders())
    packages = {
        f"{Path(path).parent}/" for path in tracked() if path.endswith("__init__.py") and (ROOT / path).exists()
    }
    assert packages <= named
    top = {path.split("/")[0] + ("/" if "/" in path else "") for path in tracked() if (ROOT / path).exists()}
    assert top <= named, "everything at the top is explained"


def test_nothing_names_a_private_place() -> None:
    """No path of a machine, no private host: the project reads the same everywhere."""
    pattern = re.compile(r"/(?:home|root|opt|work)/\w|\blocalhost:\d{4}/simple")
    private = [
        path
        for path in tracked()
        if (ROOT / path).is_file() and pattern.search((ROOT / path).read_text(errors="ignore"))
    ]
    assert not [path for path in private if not path.endswith("architecture/test_readme.py")]
