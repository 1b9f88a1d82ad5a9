"""Build the quantized graph. Smooth, choose integers for each product, switch nodes to find which cost most, put the rest in place."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.compressors.catalogue import build
from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.models.slots import pad_right
from attar.compressors.quantize.blocks import BlockWeights, Grid, block_size_for
from attar.compressors.quantize.methods import WEIGHT_METHODS, powers_of, quantize_rows
from attar.stages.artifacts.onnx_folder import read_graph, write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.quantize.calibration_taps import input_moments
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import bar

TABLE = "nodes.csv"


@dataclass
class NodeError:
    """One product of the graph. `kl_nats`: what it costs alone, a token; negative where it was not measured."""

    name: str
    num_outputs: int
    num_inputs: int
    bits: int
    output_error: float
    kl_nats: float = -1.0


class QuantizedGraph:
    """The products of a float graph with their integers, chosen once and then placed as often as needed."""

    def __init__(self, config: Any, folder: Path, samples: Sequence[Sequence[int]]) -> None:
        self.config, self.folder, self.samples = config, folder, samples
        self.integers: dict[str, BlockWeights] = {}
        self.errors: dict[str, NodeError] = {}
        self._powers: dict[str, Tensor] = {}
        self._scales: dict[str, Tensor] = {}
        self._choose_integers()

    def with_floats(self, float_nodes: Sequence[str]) -> Any:
        """Return the graph with integers in all products but `float_nodes`. These stay in float, or in 8 bits where the others have 4."""
        from attar.compressors.quantize import nodes, parallel  # their library is in an extra

        model, products = self._smoothed()
        for product in products:
            if product.name in float_nodes and not self._has_more_bits(product):
                continue
            weights = self._eight_bits(product) if product.name in float_nodes else self.integers[product.name]
            nodes.replace_node(product.node, *self._nodes(product, weights, model.graph), model.graph)
            if product.lookup is not None:
                looked_up = nodes.integer_lookup(product.lookup, product.name, weights, model.graph)
                nodes.replace_node(product.lookup, *looked_up, model.graph)
        for table in nodes.embeddings(model.graph):  # of its own; a tied one is in place by now
            looked_up = nodes.integer_lookup(table.node, table.name, self._table(table), model.graph)
            nodes.replace_node(table.node, *looked_up, model.graph)
        parallel.join_parallel(model.graph)
        return nodes.finished(model)

    def dequantized(self, float_nodes: Sequence[str]) -> Any:
        """Return the float graph with the numbers in it that the integers stand for: what `place(kept)` must compute."""
        from attar.compressors.quantize import nodes  # their library is in an extra

        model, products = self._smoothed()
        for product in products:
            if product.name in float_nodes and not self._has_more_bits(product):
                continue
            matrix = self._rounded(product, is_kept=product.name in float_nodes)
            nodes.store_again(product.stored, matrix.T if product.is_transposed else matrix)
        tied = {id(product.stored) for product in products}
        for table in nodes.embeddings(model.graph):
            if id(table.stored) not in tied:
                nodes.store_again(table.stored, self._table(table).dequantized())
        return nodes.finished(model)

    def _rounded(self, product: Any, *, is_kept: bool) -> Tensor:
        """Return the numbers that a product's integers stand for."""
        from attar.compressors.quantize.nodes import dynamic_codes

        if self._is_dynamic(product):
            codes, scales = dynamic_codes(product.weight())
            return codes.float() * scales[:, None]
        return (self._eight_bits(product) if is_kept else self.integers[product.name]).dequantized()

    def _is_dynamic(self, product: Any) -> bool:
        return self.config.weights.kind == "dynamic" and product.lookup is None

    def _table(self, table: Any) -> BlockWeights:
        grid, size = (
            self._grid(self.config.weights.head_bits),
            block_size_for(table.width, self.config.weights.block_size),
        )
        return quantize_rows(build(WEIGHT_METHODS, "nearest"), table.weight(), None, grid, size)[0]

    def rank(self, scratch: Path, num_tokens: int) -> Switches:
        """Measure what each product costs alone, on the real kernels; needs float weights and integers in memory at once."""
        from attar.compressors.quantize import nodes, switchboard  # their library is in an extra

        if not self.integers:
            self._choose_integers()
        model, products = self._smoothed()
        choices = [
            switchboard.Choice(
                product.name, product.node, *self._nodes(product, self.integers[product.name], model.graph)
            )
            for product in products
        ]
        switchboard.add_switches(model.graph, choices)
        write_graph(nodes.finished(model), scratch)
        switches = Switches(scratch, [choice.name for choice in choices], self.samples, num_tokens)
        counter = bar("measuring nodes", len(choices), "nodes")
        for name, cost in switchboard.rank_nodes(switches.loss, switches.names, on_node=counter.advance).items():
            self.errors[name].kl_nats = cost
        return switches

    def forget(self) -> None:
        """Free the integers, which are in the written graph; asked to rank later, they are chosen again."""
        self.integers.clear()
        give_back()

    def write_table(self, path: Path) -> None:
        """Write the errors, the costliest first."""
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(NodeError.__dataclass_fields__))
            writer.writeheader()
            writer.writerows(asdict(error) for error in self.worst())

    def worst(self) -> list[NodeError]:
        """Return the errors, the costliest first: by KL where it was measured, else by the output's lost energy."""
        return sorted(self.errors.values(), key=lambda error: (-error.kl_nats, -error.output_error))

    def _smoothed(self) -> tuple[Any, list[Any]]:
        from attar.compressors.quantize.nodes import products
        from attar.compressors.quantize.smoothing import smooth

        model = read_graph(self.folder)
        matrices = products(model.graph)
        if self.config.smooth:
            self._scales = smooth(model.graph, matrices, self._powers, self.config.smooth)
        return model, [
            matrix for matrix in matrices if not any(matrix.name.endswith(end) for end in self.config.exclude)
        ]

    def _choose_integers(self) -> None:
        method = build(WEIGHT_METHODS, self.config.method, self.config.params)
        if self.config.smooth or method.needs == "powers":
            for part in input_moments(self.folder, self.samples, is_diagonal=True):
                self._powers |= part
        _, products = self._smoothed()
        if not products:
            raise ValueError(f"exclude {', '.join(self.config.exclude)} leaves no product to quantize")
        by_name = {product.name: product for product in products}
        counter = bar("quantizing", len(products), "matrices")
        groups: Any = [{name: self._powers.get(name) for name in by_name}]
        if method.needs == "moments":
            groups = input_moments(self.folder, self.samples, is_diagonal=False)
        for group in groups:
            for name in group.keys() & by_name.keys():
                self._quantize(by_name[name], method, group[name])
                counter.advance()
            give_back()

    def _quantize(self, product: Any, method: Any, inputs: Tensor | None) -> None:
        scale = self._scales.get(product.name)
        if inputs is not None and scale is not None:
            inputs = inputs / scale**2 if inputs.ndim == 1 else inputs / torch.outer(scale, scale)
        bits = self._bits(product)
        wanted = inputs if method.needs == "moments" or inputs is None else powers_of(inputs)
        size = block_size_for(product.shape[1], self.config.weights.block_size)
        weights, error = quantize_rows(method, product.weight(), wanted, self._grid(bits), size)
        self.integers[product.name] = weights
        self.errors[product.name] = NodeError(product.name, product.shape[0], product.shape[1], bits, error)

    def _nodes(self, product: Any, weights: BlockWeights, graph: Any) -> tuple[list[Any], Any]:
        from attar.compressors.quantize import nodes

        if self._is_dynamic(product):
            return nodes.dynamic_product(product, product.weight(), graph)
        is_twofold = any(product.name.endswith(end) for end in self.config.twofold)
        return nodes.integer_product(product, weights, graph, is_twofold=is_twofold)

    def _has_more_bits(self, product: Any) -> bool:
        return self._bits(product) == 4

    def _eight_bits(self, product: Any) -> BlockWeights:
        size = self.integers[product.name].block_size
        return quantize_rows(build(WEIGHT_METHODS, "nearest"), product.weight(), None, self._grid(8), size)[0]

    def _bits(self, product: Any) -> int:
        is_head = product.lookup is not None or product.name.endswith(("lm_head", "embed_out"))
        return self.config.weights.head_bits if is_head else self.config.weights.bits

    def _grid(self, bits: int) -> Grid:
        return Grid(bits=bits, is_symmetric=self.config.weights.symmetric)


class Switches:
    """The switchboard opened, with what the float graph says to the calibration texts."""

    def __init__(self, folder: Path, names: Sequence[str], samples: Sequence[Sequence[int]], num_tokens: int) -> None:
        from attar.compressors.quantize.switchboard import Switched

        self.names = list(names)
        self._session = Switched(open_session(folder), len(names))
        self._runner = OnnxRunner(self._session)
        self._expected: list[tuple[Tensor, Tensor, Tensor]] = []
        left = num_tokens
        for sample in samples:
            if left > 1:
                ids, mask = pad_right([sample[:left]], self._runner.device)
                self._expected.append((ids, mask, self._logprobs(ids, mask)))
                left -= len(sample)

    def loss(self, switches: Sequence[bool]) -> float:
        """Return KL(float || switched) in nats a token."""
        self._session.switches[:] = switches
        kl, num_tokens = 0.0, 0
        for ids, mask, expected in self._expected:
            kl += float((expected.exp() * (expected - self._logprobs(ids, mask))).sum())
            num_tokens += ids.numel()
        return kl / num_tokens

    def keep(self, costs: Mapping[str, float], *, max_loss: float, max_kept: int) -> list[str]:
        """Return the costliest nodes, as few as bring the loss of the rest within the limit."""
        from attar.compressors.quantize.switchboard import keep_worst

        return keep_worst(self.loss, self.names, costs, max_loss=max_loss, max_kept=max_kept)[0]

    def _logprobs(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self._runner.forward(ids, mask, None, last_only=False)[0][0].log_softmax(-1)
