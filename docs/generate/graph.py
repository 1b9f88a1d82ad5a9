"""Pictures of recipes: nodes in columns by their distance from the sources, edges as curves, one SVG that needs no script."""

from __future__ import annotations

from html import escape

from attar.pipelines.recipe.whole import Recipe

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 132, 42, 40, 16, 4
# Fill and line by what a stage makes: readable on white and on dark ground.
COLORS = {
    "model": ("#e3edfb", "#2b5fa8"),
    "encoder": ("#e3edfb", "#2b5fa8"),
    "classifier": ("#e3edfb", "#2b5fa8"),
    "tagger": ("#e3edfb", "#2b5fa8"),
    "image_classifier": ("#e3edfb", "#2b5fa8"),
    "denoiser": ("#e3edfb", "#2b5fa8"),
    "image_dataset": ("#e5f4ea", "#2e7d4f"),
    "dataset": ("#e5f4ea", "#2e7d4f"),
    "adapter": ("#f6e9fb", "#7b3fa0"),
    "prefix": ("#f6e9fb", "#7b3fa0"),
    "compressor": ("#f6e9fb", "#7b3fa0"),
    "scan": ("#fdf3dc", "#97700a"),
    "onnx": ("#dff3f6", "#11727f"),
    "encoder_onnx": ("#dff3f6", "#11727f"),
    "classifier_onnx": ("#dff3f6", "#11727f"),
    "tagger_onnx": ("#dff3f6", "#11727f"),
    "image_onnx": ("#dff3f6", "#11727f"),
    "sampler_onnx": ("#dff3f6", "#11727f"),
    "gguf": ("#dff3f6", "#11727f"),
    "openvino": ("#dff3f6", "#11727f"),
    "ctranslate2": ("#dff3f6", "#11727f"),
}
OTHER = ("#eeeef0", "#5b6470")


def recipe_svg(recipe: Recipe) -> str:
    """Return the recipe's graph as one line of SVG."""
    corners = _corners(recipe)
    width = max(x for x, _ in corners.values()) + BOX_WIDTH + MARGIN
    height = max(y for _, y in corners.values()) + BOX_HEIGHT + MARGIN
    title = f"Graph of the recipe {recipe.name}: {len(recipe.nodes)} nodes"
    parts = [
        f'<svg class="recipe" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'role="img" font-family="system-ui, sans-serif"><title>{escape(title)}</title>'
    ]
    for name, node in recipe.nodes.items():
        parts += [_edge(corners[source], corners[name]) for source in sorted(node.upstream)]
    for name, node in recipe.nodes.items():
        parts.append(_box(corners[name], name, node.stage.name, node.kinds[0].kind))
    return "".join([*parts, "</svg>"])


def _corners(recipe: Recipe) -> dict[str, tuple[int, int]]:
    """Return the upper left corner of each node: its column is its distance from the sources, its row near those that it reads."""
    columns: dict[int, list[str]] = {}
    column: dict[str, int] = {}
    for name, node in recipe.nodes.items():  # inputs come before what reads them
        column[name] = max((column[source] + 1 for source in node.upstream), default=0)
        columns.setdefault(column[name], []).append(name)
    row: dict[str, float] = {}
    for _, names in sorted(columns.items()):
        wanted = {name: _mean_row(recipe, name, row) for name in names}
        for index, name in enumerate(sorted(names, key=lambda name: wanted[name])):
            row[name] = index
    return {
        name: (MARGIN + column[name] * (BOX_WIDTH + GAP_X), MARGIN + int(row[name]) * (BOX_HEIGHT + GAP_Y))
        for name in recipe.nodes
    }


def _mean_row(recipe: Recipe, name: str, row: dict[str, float]) -> float:
    """Return the mean row of what a node reads, measurements below all else, so that the way of the model stays on top."""
    upstream = recipe.nodes[name].upstream
    kind = recipe.nodes[name].kinds[0].kind
    mean = sum(row[source] for source in upstream) / len(upstream) if upstream else 0.0
    return mean + (100.0 if kind not in COLORS else 0.0)


def _edge(source: tuple[int, int], target: tuple[int, int]) -> str:
    x1, y1 = source[0] + BOX_WIDTH, source[1] + BOX_HEIGHT // 2
    x2, y2 = target[0], target[1] + BOX_HEIGHT // 2
    middle = (x1 + x2) // 2
    return f'<path d="M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}" fill="none" stroke="#9aa5b1" stroke-width="1.1" stroke-opacity="0.75"/>'


def _box(corner: tuple[int, int], name: str, stage: str, kind: str) -> str:
    x, y = corner
    fill, line = COLORS.get(kind, OTHER)
    return (
        f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" fill="{fill}" stroke="{line}" stroke-width="1.4"/>'
        f'<text x="{x + 9}" y="{y + 18}" font-weight="600" font-size="12" fill="#1d2733">{escape(name)}</text>'
        f'<text x="{x + 9}" y="{y + 33}" font-size="10.5" fill="#44505c">{escape(stage)}, {escape(kind)}</text>'
    )
