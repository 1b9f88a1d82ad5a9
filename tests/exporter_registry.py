"""The exporter's table of translations, made once a process: torch.onnx makes it anew at every export, in half a second."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any


def with_one_registry(export: Callable[..., Any]) -> Callable[..., Any]:
    """Return `torch.onnx.export` with a table of each operator set that is kept; nothing of ours adds a translation to it."""

    @cache
    def keep() -> None:
        from torch.onnx._internal.exporter._registration import ONNXRegistry  # imports half of the exporter

        ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign,assignment]

    @wraps(export)
    def kept(*arguments: Any, **options: Any) -> Any:
        assert options.get("custom_translation_table") is None, "it would stay in the table"
        keep()
        return export(*arguments, **options)

    return kept
