"""Where the accuracy of an int8 network goes: the same quantizer with one part left out at a time.

    EDGEC_BENCH_DATA=/data PYTHONPATH=.src python benchmarks/ptq_ablation.py --json FILE
    ... --networks ppocr_rec --scheme "TensorRT" --limit 500

Rows, on the networks of _ptq_networks.py, all run as written (no integer kernels, so that no
processor's arithmetic takes part):

- `float32, input + half a step`: the float network on inputs moved by uniform noise of half a grey
  level (1/255 of the input's range). What changes there are samples that the network itself cannot
  decide; no quantizer of 8-bit images can be expected to keep them.
- `all`: the recipe, everything quantized that the scheme quantizes.
- `weights only`, `activations only`: the other half of the quantizers taken out again.
- `… float`: everything but one kind of operator quantized.
- `n samples`: calibrated on more or fewer.

`±` is the standard error of the drop. With --json, rows of this run replace those of the same
network, scheme and name in the file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from _ptq import Feed, Row, heading, line, row, save, serialize
from _ptq_networks import MissingError, Network, load
from _ptq_score import Inputs, merged, only_input, reference_of, score
from numpy.typing import NDArray
from ptq import SCHEMES

from edgec.export.quantize.calibrate import calibrate
from edgec.export.quantize.recipes.apply import quantize_by, transform
from edgec.export.quantize.recipes.recipe import Recipe, builtin_recipes
from edgec.export.quantize.scheme import QuantScheme

After = Callable[[ir.Model, ir.Model], None]
"""Changes a quantized graph, given the float one."""
CALIBRATION = 64
"""Calibration samples of the rows that do not say otherwise."""
MISSED = ("efficientnet_lite0", "ppocr_rec", "ppocr_cls")
"""Networks whose figures in ptq.py fall short."""


def float_weights(quantized: ir.Model, original: ir.Model) -> None:
    """Put the float constants of `original` back in place of the quantized ones."""
    nodes = {node.name: node for node in original.graph}
    for node in quantized.graph:
        before = nodes.get(node.name)
        if before is None:
            continue
        for index, value in enumerate(before.inputs):
            if value is None or value.const_value is None:
                continue
            copy = ir.Value(name=f"{node.name}:float_{index}", const_value=value.const_value)
            quantized.graph.initializers[copy.name] = copy  # type: ignore[index]
            node.replace_input_with(index, copy)


def float_activations(quantized: ir.Model, original: ir.Model) -> None:
    """Let readers of dequantized activations read what was quantized."""
    for node in quantized.graph:
        if node.op_type != "DequantizeLinear":
            continue
        producer = node.inputs[0].producer() if node.inputs[0] is not None else None
        if producer is not None and producer.op_type == "QuantizeLinear":
            source = producer.inputs[0]
            assert source is not None
            if not node.outputs[0].is_graph_output():
                node.outputs[0].replace_all_uses_with(source)


def kinds(model: ir.Model) -> Iterator[tuple[str, list[str]]]:
    """Kinds of operators that occur, and the names of their nodes."""
    found: dict[str, list[str]] = {}
    for node in model.graph:
        found.setdefault(_kind(node), []).append(str(node.name))
    weighted = [str(n.name) for n in model.graph if n.op_type in ("Conv", "Gemm", "MatMul")]
    found["first layer"], found["last layer"] = weighted[:1], weighted[-1:]
    for kind, names in found.items():
        if kind:
            yield kind, names


def _kind(node: ir.Node) -> str:
    if node.op_type == "Conv":
        weight = node.inputs[1]
        assert weight is not None
        assert weight.shape is not None
        taps = [int(d) for d in weight.shape.numpy()]
        if taps[1] == 1 and node.attributes.get_int("group", 1) > 1:
            return "depthwise convolutions"
        return "1 x 1 convolutions" if taps[2:] == [1, 1] else "other convolutions"
    if node.op_type in ("MatMul", "Gemm"):
        return "products"
    return {
        "Add": "additions",
        "Mul": "multiplications",
        "GlobalAveragePool": "global pools",
        "Concat": "concatenations",
    }.get(node.op_type, "")


def half_a_step(feed: Feed) -> NDArray[np.float32]:
    """The input with noise of half a grey level, the same for every network."""
    value = only_input(feed)
    step = float(np.ptp(value)) / 255
    noise = np.random.default_rng(0).uniform(-step / 2, step / 2, value.shape)
    return (value + noise).astype(np.float32)


class Ablation:
    """The rows of one network under one scheme."""

    def __init__(self, network: Network, title: str, recipe: Recipe) -> None:
        self.network, self.title, self.recipe = network, title, recipe
        # a node may be called "Conv", which would leave out every operator of that type
        for number, node in enumerate(network.model.graph):
            node.name = f"node_{number}"
        self.scheme: QuantScheme = SCHEMES[title]
        self.reference = reference_of(network, emulated=True)

    def rows(self) -> Iterator[Row]:
        """All, the float network first."""
        floats = self.reference.scores
        yield row("float32", floats, floats.correct, None)
        yield self._measured("float32, input + half a step", lambda _: floats.data, half_a_step)
        yield self._quantized("all")
        yield self._quantized("weights only", after=float_activations)
        yield self._quantized("activations only", after=float_weights)
        for kind, names in kinds(self.network.model):
            yield self._quantized(f"{kind} float", exclude=names)
        for count in (CALIBRATION // 4, 4 * CALIBRATION):
            yield self._quantized(f"{count} samples", count=count)

    def _quantized(
        self,
        name: str,
        *,
        exclude: Sequence[str] = (),
        after: After | None = None,
        count: int = CALIBRATION,
    ) -> Row:
        def make(feeds: Sequence[Feed]) -> bytes:
            graph, _ = transform(
                self.network.model, self.recipe, lambda: feeds, self.scheme, exclude=exclude
            )
            ranges = calibrate(graph, feeds, method=self.recipe.calib_method)
            made = quantize_by(
                self.recipe, graph, ranges, lambda: feeds, self.scheme, exclude=exclude
            ).graph
            if after is not None:
                after(made, graph)
            return serialize(made)

        return self._measured(f"{self.title}: {name}", make, only_input, count)

    def _measured(
        self,
        name: str,
        make: Callable[[Sequence[Feed]], bytes],
        inputs: Inputs,
        count: int = CALIBRATION,
    ) -> Row:
        found = score(self.network, make, self.reference, most=count, emulated=True, inputs=inputs)
        return row(name, found, self.reference.scores.correct, None)


def keep(network: Network, found: Sequence[Row], path: Path | None) -> None:
    """Write the rows into the file, in place of those with the same name."""
    if path is not None:
        facts, records = merged(network, found, path)
        save("Where the accuracy of int8 goes", records, facts, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default=",".join(MISSED))
    parser.add_argument("--scheme", default="x86, u8 weights", choices=list(SCHEMES))
    parser.add_argument("--recipe", default="default", choices=list(builtin_recipes()))
    parser.add_argument("--limit", type=int, help="samples to score on")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    for name in arguments.networks.split(","):
        try:
            network = load(name, limit=arguments.limit, calibration=4 * CALIBRATION)
        except MissingError as error:
            print(f"{name}: skipped: {error}", file=sys.stderr)
            continue
        heading(f"{name}: {network.metric}")
        rows = []
        for found in Ablation(
            network, arguments.scheme, builtin_recipes()[arguments.recipe]
        ).rows():
            line(found)
            rows.append(found)
            keep(network, rows, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
