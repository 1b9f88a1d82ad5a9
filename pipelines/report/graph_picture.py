"""The run's nodes as a picture: columns by distance from the sources, edges as curves, one inline SVG."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from attar.registry.tracking.run_record import NodeRecord

COLORS = {"Completed": "#2e7d4f", "Cached": "#3b6ea8", "Failed": "#b3261e", "Skipped": "#9a8200"}
BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 148, 44, 46, 18


def lineage_svg(nodes: Mapping[str, NodeRecord]) -> str:
    """Return the graph of a run: each node with its stage and key, colored by state."""
    boxes = _boxes(nodes)
    width = max(x for x, _ in boxes.values()) + BOX_WIDTH + 8
    height = max(y for _, y in boxes.values()) + BOX_HEIGHT + 8
    parts = [f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img">']
    for name, node in nodes.items():
        for source in (source for names in node.inputs.values() for source in names if source in boxes):
            parts.append(_edge(boxes[source], boxes[name]))
    for name, node in nodes.items():
        parts.append(_box(boxes[name], name, node))
    return "".join([*parts, "</svg>"])


def _boxes(nodes: Mapping[str, NodeRecord]) -> dict[str, tuple[int, int]]:
    depth: dict[str, int] = {}
    for name, node in nodes.items():  # records keep the recipe's order: inputs come first
        depth[name] = 1 + max((depth.get(source, 0) for names in node.inputs.values() for source in names), default=0)
    rows: dict[int, int] = {}
    boxes = {}
    for name in nodes:
        column = depth[name] - 1
        row = rows.get(column, 0)
        rows[column] = row + 1
        boxes[name] = (4 + column * (BOX_WIDTH + GAP_X), 4 + row * (BOX_HEIGHT + GAP_Y))
    return boxes


def _edge(source: tuple[int, int], target: tuple[int, int]) -> str:
    x1, y1 = source[0] + BOX_WIDTH, source[1] + BOX_HEIGHT // 2
    x2, y2 = target[0], target[1] + BOX_HEIGHT // 2
    middle = (x1 + x2) // 2
    return (
        f'<path d="M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}" fill="none" stroke="#aab4bf" stroke-width="1.3"/>'
    )


def _box(corner: tuple[int, int], name: str, node: NodeRecord) -> str:
    x, y = corner
    color = COLORS.get(node.state, "#7c8a99")
    detail = f"{node.stage} {node.key[:8]}"
    return (
        f"<g><title>{escape(name)}: {escape(node.state)} {escape(node.key)}</title>"
        f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" fill="#fff" stroke="{color}" stroke-width="1.6"/>'
        f'<text x="{x + 10}" y="{y + 18}" font-weight="600" font-size="12" fill="#1d2733">{escape(name)}</text>'
        f'<text x="{x + 10}" y="{y + 34}" font-size="10.5" fill="#5b6875">{escape(detail)}</text></g>'
    )
