"""What each block costs: its noise alone, and the noise that has piled up behind it.

A block's own cost is measured by quantizing it and nothing else; small costs of different blocks
add up nearly, which makes shares of the whole meaningful (the independence that per-layer
sensitivities rest on, e.g. Dong et al., HAWQ-V2, arXiv 1911.03852).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.export.diagnose.blocks import Block
from edgec.export.diagnose.restore import restored
from edgec.runtime.agreement import Agreement, Comparison
from edgec.runtime.onnx_runner import OnnxRunner

Feeds = Mapping[str, NDArray[Any]]
Sample = tuple[Feeds, int | None]


@dataclass(frozen=True)
class Judgement:
    """A version of the network compared with the float one.

    Attributes:
        agreement: see `Agreement`.
        cost: mean Kullback-Leibler divergence of the class probabilities (nats) where there is one
            output of scores; else the mean over the outputs of noise power over signal power.
    """

    agreement: Agreement
    cost: float


@dataclass(frozen=True)
class Contribution:
    """What one block does to the result.

    Attributes:
        block: which.
        integer_nodes: how many of its nodes are on integers, in whole or in part.
        sqnr_db: signal to noise at the block's outputs with everything quantized, the noise of all
            blocks before included; None without noise.
        alone: with only this block quantized; None where nothing in it is.
        share: its part of the sum of all blocks' own costs, 0 to 1.
    """

    block: Block
    integer_nodes: int
    sqnr_db: float | None
    alone: Judgement | None
    share: float


class Judge:
    """Compares versions of a network with the float one on fixed samples."""

    def __init__(self, master: ir.Model, samples: Sequence[Sample]) -> None:
        """Run the float network once.

        Args:
            master: float graph.
            samples: inputs by name, with label or None.
        """
        self.master = master
        self.samples = samples
        runner = OnnxRunner(_bytes(master))
        self._reference = [runner.run(feeds) for feeds, _ in samples]

    def judge(self, model: ir.Model | OnnxRunner) -> Judgement:
        """Run a version, Q/DQ as written if it is a graph, and compare."""
        if not isinstance(model, OnnxRunner):
            model = OnnxRunner(_bytes(model), emulate=True)
        comparison, costs = Comparison(), []
        for (feeds, label), reference in zip(self.samples, self._reference, strict=True):
            found = model.run(feeds)
            comparison.add(reference, found, label)
            costs.append(_cost(reference, found))
        return Judgement(comparison.result(), float(np.mean(costs)))


def contributions(
    judge: Judge,
    quantized: ir.Model,
    blocks: Sequence[Block],
    tick: Callable[[int, int | None], None] = lambda done, total: None,
) -> list[Contribution]:
    """Judge every block alone, in the order of `blocks`.

    Args:
        judge: holds the float graph and the samples.
        quantized: its Q/DQ form, same node names.
        blocks: a partition of the float graph's nodes.
        tick: called with blocks done and their number.
    """
    noise = block_noise(judge, quantized, blocks)
    everything = [name for block in blocks for name in block.nodes]
    touched = _on_integers(quantized)
    found: list[tuple[Block, int, float | None, Judgement | None]] = []
    for done, (block, sqnr) in enumerate(zip(blocks, noise, strict=True), 1):
        members = set(block.nodes)
        integers = len(members & touched)
        alone = None
        if integers:
            others = [name for name in everything if name not in members]
            alone = judge.judge(restored(quantized, judge.master, others))
        found.append((block, integers, sqnr, alone))
        tick(done, len(blocks))
    total = sum(alone.cost for *_, alone in found if alone is not None) or 1.0
    return [
        Contribution(block, integers, sqnr, alone, 0.0 if alone is None else alone.cost / total)
        for block, integers, sqnr, alone in found
    ]


def block_noise(judge: Judge, quantized: ir.Model, blocks: Sequence[Block]) -> list[float | None]:
    """SQNR in dB at each block's outputs, as the nodes behind them read it; None without noise.

    One pass over the samples, keeping sums only.
    """
    values = {str(v.name) for node in quantized.graph for v in node.outputs}
    floats = {
        str(v.name)
        for node in judge.master.graph
        for v in node.outputs
        if v.dtype is None or v.dtype == ir.DataType.FLOAT
    }
    pairs: dict[str, str] = {}
    for block in blocks:
        for name in block.outputs:
            if name in floats:
                read = f"{name}_dequantized"
                pairs[name] = read if read in values else name
    pairs = {name: read for name, read in pairs.items() if read in values}
    reference = OnnxRunner(_bytes(judge.master, pairs), emulate=True)
    other = OnnxRunner(_bytes(quantized, set(pairs.values())), emulate=True)
    signal, noise = dict.fromkeys(pairs, 0.0), dict.fromkeys(pairs, 0.0)
    for feeds, _ in judge.samples:
        want, got = reference.run(feeds), other.run(feeds)
        for name, read in pairs.items():
            x = want[name].astype(np.float64).ravel()
            signal[name] += float(x @ x)
            noise[name] += float(((got[read].astype(np.float64).ravel() - x) ** 2).sum())

    def decibels(block: Block) -> float | None:
        kept = [name for name in block.outputs if name in pairs]
        s, n = sum(signal[k] for k in kept), sum(noise[k] for k in kept)
        return 10 * float(np.log10(s / n)) if s > 0 and n > 0 else None

    return [decibels(block) for block in blocks]


def _on_integers(quantized: ir.Model) -> set[str]:
    """Nodes that read or write a quantized value or a rounded constant."""
    touched = set()
    for node in quantized.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        producers = (v.producer() for v in node.inputs if v is not None)
        reads = any(p is not None and p.op_type == "DequantizeLinear" for p in producers)
        writes = any(
            use.node.op_type == "QuantizeLinear" for value in node.outputs for use in value.uses()
        )
        if reads or writes:
            touched.add(str(node.name))
    return touched


def _cost(reference: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]]) -> float:
    first = next(iter(reference.values()))
    if len(reference) == 1 and first.ndim == 2 and first.shape[0] == 1 and first.shape[1] >= 2:
        p, q = (_log_softmax(next(iter(side.values()))) for side in (reference, found))
        return float((np.exp(p) * (p - q)).sum())
    ratios = []
    for name, value in reference.items():
        if value.dtype.kind != "f":
            continue
        x = value.astype(np.float64)
        power = float((x * x).sum())
        if power > 0:
            ratios.append(float(((found[name] - x) ** 2).sum()) / power)
    return float(np.mean(ratios)) if ratios else 0.0


def _log_softmax(scores: NDArray[Any]) -> NDArray[np.float64]:
    x = scores.astype(np.float64).ravel()
    x = x - x.max()
    shifted: NDArray[np.float64] = x - np.log(np.exp(x).sum())
    return shifted


def _bytes(model: ir.Model, exposed: Collection[str] = ()) -> bytes:
    """The serialized graph with further float values as outputs."""
    proto = ir.to_proto(model)
    present = {value.name for value in proto.graph.output}
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in sorted(set(exposed) - present)
    )
    return bytes(proto.SerializeToString())
