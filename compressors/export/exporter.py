"""Trace a module by torch's exporter, without its advice. Why it builds no graph is said in one line."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    import onnx_ir as ir  # in an extra


def trace(
    module: nn.Module, args: tuple[Any, ...] = (), *, name: str, opset: int, optimize: bool = False, **options: Any
) -> ir.Model:
    """Return the graph of a module as it computes an example. `options`: names, shapes and examples, as `torch.onnx.export` takes them.

    Raises ValueError, with what the model itself said, where there is no graph of the model called `name`.
    """
    with _quiet():
        try:
            program = torch.onnx.export(
                module.eval(), args, opset_version=opset, dynamo=True, optimize=optimize, verbose=False, **options
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ValueError(f"{name} has no ONNX graph: {_reason(error)}") from error
    assert program is not None, "the dynamo exporter returns a program"
    return program.model


def _reason(error: BaseException) -> str:
    """Return the first line of the innermost cause, which is what the model itself said."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's advice: torchvision is not installed, axes are merged, a tree is deprecated."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
