"""Write what the README shows and the code makes, the demo's graph and the table of results: python -m docs.generate.readme"""

from __future__ import annotations

from pathlib import Path

from attar.pipelines.recipe.whole import load_recipe
from docs.generate.graph import recipe_svg
from docs.generate.results import with_blocks

README = Path(__file__).parents[2] / "README.md"
PICTURE = Path(__file__).parents[1] / "pictures" / "demo.svg"


def picture() -> str:
    """Return the SVG of the demo's graph."""
    return recipe_svg(load_recipe("demo")) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture())
    README.write_text(with_blocks(README.read_text()))
