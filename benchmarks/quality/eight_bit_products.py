"""What a graph with dynamic 8-bit products loses, by part: its weights' codes, the rounding of activations, sums cut at 16 bits.

python benchmarks/quality/eight_bit_products.py ONNX_FOLDER QUESTIONS.jsonl [--train QUESTIONS.jsonl] [--num-tokens 3000] [--forms NAME ...]

ONNX_FOLDER: a float graph of the stage `export`. Each product is written out in plain operators, so that any processor computes what
another would: sums whole, as with VNNI, or each pair of neighbouring products cut to 16 bits, as AVX2's and AVX-512's `vpmaddubsw` do.
The first rows are onnxruntime's own kernels here, which show that the written-out products are the same.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.measure.closeness import TextCloseness, closeness, ratio_of_sums
from attar.compressors.measure.likelihood import Pair
from attar.compressors.quantize import nodes
from attar.registry.artifacts.environment import configure_process
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.onnx_folder import write_graph
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.quantize.config import QuantizeConfig
from attar.stages.quantize.graph import QuantizedGraph
from attar.stages.quantize.limits import Limits

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

LEAST, MOST = np.iinfo(np.int16).min, np.iinfo(np.int16).max


@dataclass(frozen=True)
class Form:
    """How the products of a graph are computed. `largest`: of the weights' codes; 0: weights stay in float."""

    name: str
    largest: int
    rounds_inputs: bool = True
    is_cut: bool = False
    # onnxruntime's own node
    is_kernel: bool = False


FORMS = (
    Form("onnxruntime here, 8-bit weights", 127, is_kernel=True),
    Form("onnxruntime here, 7-bit weights", 64, is_kernel=True),
    Form("8-bit weights, sums whole", 127),
    Form("8-bit weights, sums cut at 16 bits", 127, is_cut=True),
    Form("7-bit weights, sums whole", 64),
    Form("7-bit weights, sums cut at 16 bits", 64, is_cut=True),
    Form("8-bit weights, activations in float", 127, rounds_inputs=False),
    Form("7-bit weights, activations in float", 64, rounds_inputs=False),
    Form("weights in float, activations in 8 bits", 0),
)


class WrittenOut:
    """The nodes of one product, as a chain."""

    def __init__(self, product: nodes.Product, graph: ir.Graph) -> None:
        self.product, self.graph, self.nodes = product, graph, []

    def node(self, operator: str, inputs: list[Any], attributes: dict[str, Any] | None = None, outputs: int = 1) -> Any:
        made = ir.node(operator, inputs, attributes or {}, num_outputs=outputs)
        self.nodes.append(made)
        return made.outputs[0] if outputs == 1 else made.outputs

    def stored(self, part: str, tensor: torch.Tensor) -> ir.Value:
        return nodes.store_tensor(f"{self.product.name}.{part}", tensor, self.graph)


def written_out(product: nodes.Product, form: Form, graph: ir.Graph) -> tuple[list[Any], ir.Value]:
    """Return the product's nodes in plain operators, and its result without the bias."""
    out, weight = WrittenOut(product, graph), product.weight()
    scales = weight.abs().amax(dim=1).clamp(min=1e-12) / (form.largest or 1)
    codes = (weight / scales[:, None]).round().clamp(-form.largest, form.largest) if form.largest else weight
    scales = scales if form.largest else torch.ones_like(scales)
    read = product.node.inputs[0]
    if not form.rounds_inputs:
        total = out.node("MatMul", [read, out.stored("codes", codes.T)])
        return out.nodes, out.node("Mul", [total, out.stored("scales", scales)])
    rounded, step, zero = out.node("DynamicQuantizeLinear", [read], outputs=3)
    levels, zero = (out.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}) for value in (rounded, zero))
    total = out.node("MatMul", [levels, out.stored("codes", codes.T)])
    if form.is_cut:
        total = without_excess(out, levels, total, codes)
    shift = out.node("Mul", [zero, out.stored("sums", codes.sum(dim=1))])
    sums = out.node("Sub", [total, shift])
    return out.nodes, out.node("Mul", [out.node("Mul", [sums, step]), out.stored("scales", scales)])


def without_excess(out: WrittenOut, levels: Any, total: Any, codes: torch.Tensor) -> Any:
    """Take from the sums what pairs of neighbouring inputs have beyond 16 bits. Only pairs of large codes can have it."""
    pairs = codes[:, : codes.shape[1] // 2 * 2].reshape(len(codes), -1, 2)
    is_large = (255 * pairs.clamp(min=0).sum(-1) > MOST) | (255 * pairs.clamp(max=0).sum(-1) < LEAST)
    outputs, pair_index = is_large.nonzero(as_tuple=True)
    if not len(outputs):
        return total
    sums = []
    for side in (0, 1):
        seen = out.node("Gather", [levels, out.stored(f"seen{side}", 2 * pair_index + side)], {"axis": -1})
        sums.append(out.node("Mul", [seen, out.stored(f"factor{side}", pairs[outputs, pair_index, side])]))
    pair = out.node("Add", sums)
    ends = [out.stored("least", torch.tensor(float(LEAST))), out.stored("most", torch.tensor(float(MOST)))]
    beyond = out.node("Sub", [out.node("Clip", [pair, *ends]), pair])
    where = out.node("Expand", [out.stored("outputs", outputs), out.node("Shape", [beyond])])
    return out.node("ScatterElements", [total, where, beyond], {"axis": -1, "reduction": "add"})


def graph_of(source: QuantizedGraph, form: Form) -> ir.Model:
    """Return the smoothed float graph with the products of its blocks in one form; the head and the lookup stay in float."""
    model, products = source._smoothed()
    for product in products:
        if product.lookup is not None or product.name.endswith("lm_head"):
            continue
        if form.is_kernel:
            nodes.SAFE_CODE = form.largest
            replaced, result = nodes.dynamic_product(product, product.weight(), model.graph)
        else:
            replaced, result = written_out(product, form, model.graph)
            bias = product.node.inputs[2] if len(product.node.inputs) > 2 else None
            if bias is not None:
                replaced = [*replaced, ir.node("Add", [result, bias])]
                result = replaced[-1].outputs[0]
        nodes.replace_node(product.node, replaced, result, model.graph)
    return nodes.finished(model)


def main() -> None:
    options = arguments()
    configure_process()
    tokenizer = load_tokenizer(options.graph)
    pairs = pairs_of(options.questions, tokenizer, options.num_tokens)
    config = QuantizeConfig(limits=Limits(max_kl_nats=100.0), weights={"kind": "dynamic"})  # type: ignore[arg-type]
    samples = [[*context, *ids][:256] for context, ids in pairs_of(options.train, tokenizer, 3000)[:16]]
    source = QuantizedGraph(config, options.graph, samples)
    original = OnnxRunner(open_session(options.graph, is_frugal=True))
    print(f"{sum(len(ids) for _, ids in pairs)} tokens of answers to {len(pairs)} questions; KL from the float graph")
    print("| products | KL nats a token | agreement | perplexity ratio |")
    print("|---|---|---|---|")
    for form in [form for form in FORMS if not options.forms or form.name in options.forms]:
        with tempfile.TemporaryDirectory() as scratch:
            write_graph(graph_of(source, form), Path(scratch))
            runner = OnnxRunner(open_session(Path(scratch), is_frugal=True))
            print(row(form.name, closeness(runner, original, pairs, batch_size=1)), flush=True)


def row(name: str, texts: list[TextCloseness]) -> str:
    counts = [text.num_tokens for text in texts]
    kl = ratio_of_sums([text.kl_nats for text in texts], counts)
    agreement = sum(text.num_agreeing for text in texts) / sum(counts)
    rise = sum(text.loss_nats - text.original_loss_nats for text in texts) / sum(counts)
    return f"| {name} | {kl.value:.3g} [{kl.low:.3g}, {kl.high:.3g}] | {agreement:.1%} | {math.exp(rise):.3f} |"


def pairs_of(path: Path, tokenizer: Any, num_tokens: int) -> list[Pair]:
    """Return questions with their answers until there are enough tokens of answers."""
    pairs: list[Pair] = []
    for line in path.read_text().splitlines():
        if sum(len(ids) for _, ids in pairs) >= num_tokens:
            break
        row = json.loads(line)
        turn = [{"role": "user", "content": row["question"]}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        pairs.append((ids, tokenizer(row["answer"], add_special_tokens=False).input_ids))
    return pairs


def arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--forms", nargs="*", choices=[form.name for form in FORMS], help="some rows alone")
    parser.add_argument("--num-tokens", type=int, default=3000)
    return parser.parse_args()


if __name__ == "__main__":
    recorded(main)
