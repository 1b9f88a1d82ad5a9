"""Trace an image classifier into one ONNX graph. Batch norms become part of the convolutions before them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attar.compressors.export.exporter import trace
from attar.compressors.images.classifier import ImageClassifier
from attar.compressors.images.session import LOGITS, PIXELS
from attar.compressors.images.statistics import without_open_gates

if TYPE_CHECKING:
    import onnx_ir as ir  # in an extra


def export_classifier(
    classifier: ImageClassifier, image_size: tuple[int, int], num_channels: int, opset: int
) -> ir.Model:
    """Return the graph of a classifier in float32, the batch dynamic. Raises ValueError for a family that has no graph."""
    import onnx_ir as ir  # in an extra
    from onnx_ir.passes import common

    whole = copy.deepcopy(classifier).float().eval().requires_grad_(False)
    without_open_gates(whole)
    # distinct from 1: the tracer specialises on 0 and 1
    example = torch.zeros(2, num_channels, *image_size)
    fuse_norms(whole, example[:1])
    whole_means(whole, example[:1])
    graph = trace(
        whole,
        (example,),
        name=type(classifier.model).__name__,
        opset=opset,
        optimize=True,
        input_names=[PIXELS],
        output_names=[LOGITS],
        dynamic_shapes=({0: torch.export.Dim("batch_size")},),
    )
    # the trace notes its call stack on every node, paths of this machine included
    common.ClearMetadataAndDocStringPass()(graph)
    graph.graph.inputs[0].shape = ir.Shape(["batch_size", num_channels, *image_size])
    graph.graph.outputs[0].shape = ir.Shape(["batch_size", classifier.model.config.num_labels])
    return graph


@torch.no_grad()
def whole_means(classifier: nn.Module, example: torch.Tensor) -> int:
    """Replace pools whose window is no smaller than the image by a mean over the image, in place. Return how many.

    EfficientNet's last window is as large as its width. With integers around it onnxruntime's optimized graph gives other classes.
    """
    sizes: dict[str, torch.Size] = {}
    pools = {name: module for name, module in classifier.named_modules() if isinstance(module, nn.AvgPool2d)}

    def remember(name: str) -> Any:
        return lambda module, inputs: sizes.update([(name, inputs[0].shape[-2:])])

    handles = [pool.register_forward_pre_hook(remember(name)) for name, pool in pools.items()]
    try:
        classifier(example)
    finally:
        for handle in handles:
            handle.remove()
    covered = [name for name, size in sizes.items() if pools[name].ceil_mode and _window(pools[name]) >= max(size)]
    for name in covered:
        parent, _, own = name.rpartition(".")
        setattr(classifier.get_submodule(parent), own, nn.AdaptiveAvgPool2d(1))
    return len(covered)


def _window(pool: nn.AvgPool2d) -> int:
    return pool.kernel_size if isinstance(pool.kernel_size, int) else min(pool.kernel_size)


@torch.no_grad()
def fuse_norms(classifier: nn.Module, example: torch.Tensor) -> int:
    """Put every batch norm into the convolution whose output it alone reads, in place. Return how many.

    Which norm reads which convolution is what a forward pass shows: by the tensor that the one gave and the other was given.
    """
    made: dict[int, str] = {}
    pairs: list[tuple[str, str]] = []
    held: list[torch.Tensor] = []  # so that no address is used again

    def note_conv(name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            made[id(output)] = name
            held.append(output)

        return hook

    def note_norm(name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if id(inputs[0]) in made:
                pairs.append((made.pop(id(inputs[0])), name))

        return hook

    handles = []
    for name, module in classifier.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(note_conv(name)))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(note_norm(name)))
    try:
        classifier(example)
    finally:
        for handle in handles:
            handle.remove()
    for conv_name, norm_name in pairs:
        conv, norm = classifier.get_submodule(conv_name), classifier.get_submodule(norm_name)
        _replace(classifier, conv_name, fuse_conv_bn_eval(conv, norm))  # type: ignore[arg-type]
        _replace(classifier, norm_name, nn.Identity())
    return len(pairs)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
