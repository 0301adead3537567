"""What a layer costs a processor, as amounts of work that fitted constants turn into time.

The latency of a network is modelled as the sum over its kernels of amount times constant: MACs by
the kind of kernel that executes them, elements moved, weights streamed, and a fixed cost for each
kernel. Constants differ between devices and runtimes; amounts do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgec.profiles.layers import Layer

Work = Literal[
    "winograd",
    "conv",
    "stem",
    "unpacked",
    "pointwise",
    "depthwise",
    "matmul",
    "linear",
    "weights",
    "window_io",
    "pointwise_io",
    "depthwise_io",
    "memory",
    "transcendental",
    "local_norm",
    "normalization",
    "kernels",
    "launch",
    "large_depthwise",
    "group_kernels",
    "gates",
    "transposed",
    "unaligned",
    "far",
    "functions",
    "large_stem",
    "unpacked_winograd",
    "gemm",
    "joined",
    "joins",
    "concatenated",
    "reductions",
]
WORK: tuple[Work, ...] = get_args(Work)
"""MACs: ``winograd`` 3x3 of stride 1, ``conv`` other windows, ``stem`` windows on few channels,
``unpacked`` convolutions whose channels do not fill vectors, ``pointwise``, ``depthwise``,
``matmul`` of activations. Elements: ``linear`` and ``weights`` constants read, ``*_io`` activations
read and written by products, ``memory`` by everything else, ``transcendental`` results of softmax,
``local_norm`` of local response normalization, ``normalization`` of LayerNorm and alike.
``kernels`` counts launches, ``launch`` whole inferences: handing a network to an NPU and back costs
as much as many of its layers. Told apart where an accelerator does: ``large_depthwise`` windows
beyond 3x3, ``group_kernels`` launches for all groups of a convolution but one, ``gates`` elements
moved to scale channels (squeeze and excitation), ``transposed`` ones moved by transposes,
``unaligned`` ones moved to put channels together of which an input has no multiple of `LANES`,
``far`` those of layers whose activations exceed `ON_CHIP`, on top of what they are counted as, and
``functions`` results of functions with exponentials (SiLU, GELU), which joined a kernel or not.
Told apart where CPU libraries do: ``large_stem`` windows beyond 3x3 on few channels, which fill
vectors along the window, and ``unpacked_winograd`` 3x3 of stride 1 among the ``unpacked``.
Told apart where a compiler leaves convolutions and products to libraries: ``gemm`` MACs of products
of several rows with constants, ``joined`` elements moved by passes of joined functions, ``joins``
these passes, ``concatenated`` elements moved to put aligned channels together, and ``reductions``
launches of norms and softmax."""

APART = {
    "large_depthwise": "depthwise",
    "group_kernels": "kernels",
    "gates": "memory",
    "transposed": "memory",
    "unaligned": "concatenated",
    "concatenated": "memory",
    "gemm": "pointwise",
    "joined": "",
    "joins": "",
    "reductions": "kernels",
    "large_stem": "stem",
    "unpacked_winograd": "winograd",
}
"""Where these belong for a processor that does not tell them apart."""

SAVED = {("unpacked_winograd", "unpacked"): 0.5}
"""What is left of an amount that is charged as another: Winograd's saving, as the prior of the
fits has it, does not depend on how channels are packed."""

UNIT = 1e6
"""Amounts are in millions, ``kernels`` included, so that constants are of similar size."""

LANES = 8
"""Channels that such an NPU reads at once."""

VECTOR = 4
"""Channels that the packed layouts of CPU libraries hold together."""

ON_CHIP = 1 << 20
"""Elements that a layer reads and writes from which on an NPU of a microcontroller leaves its
fastest memory, and a CPU its caches."""

BLOCK = 8
"""Output channels that a thread computes together: a product is cut into such blocks, and the last
ones leave threads idle."""

MOST_THREADS = 8
"""Constants of more are not fitted."""

SHARED: frozenset[Work] = frozenset(
    {
        "winograd",
        "conv",
        "stem",
        "large_stem",
        "unpacked",
        "unpacked_winograd",
        "pointwise",
        "gemm",
    }
)
"""Work that threads share by blocks of output channels."""

FEW_CHANNELS = 8
TILE = 4
"""Winograd's output tiles: sides that they do not divide are computed in part for nothing."""

WINDOWS = ("3x3", "conv", "1x1", "grouped")


def layer_work(layer: Layer, threads: int = 1) -> dict[Work, float]:
    """Amounts of one layer, in plain numbers; work that threads share is counted as if idle
    threads worked too.

    Args:
        layer: to count.
        threads: of the runtime.
    """
    work: dict[Work, float] = {"kernels": 1.0}
    moved = layer.in_elems + layer.out_elems
    if layer.kind in WINDOWS:
        work |= _window(layer, moved)
    elif layer.kind == "depthwise":
        large: Work = "large_depthwise" if layer.kernel > 3 else "depthwise"
        work |= {large: layer.macs, "depthwise_io": moved}
    elif layer.kind == "linear":
        work["linear"] = layer.weights
    elif layer.kind == "matmul":
        work |= {"matmul": layer.macs, "pointwise_io": moved}
    elif layer.kind == "softmax":
        work = {"reductions": 1.0, "transcendental": layer.out_elems}
    elif layer.operator == "LRN":
        work["local_norm"] = layer.out_elems
    elif layer.kind == "norm":
        work = {"reductions": 1.0, "normalization": layer.out_elems}
    elif layer.operator.lower() == "transpose":
        work["transposed"] = moved
    elif layer.kind == "move" and layer.in_ch % LANES:
        work["unaligned"] = moved
    elif layer.operator.lower().startswith("concat") or layer.operator == "cat":
        work["concatenated"] = moved
    else:
        work["gates" if _scales_channels(layer) else "memory"] = moved
    if moved > ON_CHIP:
        work["far"] = moved
    if layer.functions:
        work["functions"] = layer.functions
    if layer.joined:
        work |= {"joined": layer.joined, "joins": 1}
    idle = idle_factor(layer.out_ch, threads)
    return {name: amount * idle if name in SHARED else amount for name, amount in work.items()}


def idle_factor(channels: int, threads: int) -> float:
    """Threads over those that are busy on average, while blocks of output channels last."""
    blocks = max(-(-channels // BLOCK), 1)
    threads = max(1, min(threads, MOST_THREADS))
    return -(-blocks // threads) * threads / blocks


def _scales_channels(layer: Layer) -> bool:
    """Whether it multiplies a feature map by one number for each channel."""
    few = layer.out_elems < layer.in_elems < 1.5 * layer.out_elems
    return few and layer.operator.lower() == "mul"


def _window(layer: Layer, moved: int) -> dict[Work, float]:
    """A convolution; a grouped one is that many small ones."""
    groups = layer.groups if layer.kind == "grouped" else 1
    inputs, outputs = layer.in_ch // groups, layer.out_ch // groups
    few = inputs < FEW_CHANNELS
    unpacked = outputs % VECTOR != 0 or (inputs % VECTOR != 0 and inputs > VECTOR)
    work: dict[Work, float] = {
        "weights": layer.weights,
        "kernels": 1,
        "group_kernels": groups - 1,
    }
    if layer.kernel <= 1:
        product: Work = "pointwise" if "conv" in layer.operator.lower() else "gemm"
        work["unpacked" if unpacked else product] = layer.macs
        work["pointwise_io"] = moved
        return work
    work["window_io"] = moved
    if layer.kernel == 3 and layer.stride == 1 and not few:
        side = max(layer.out_hw, 1) ** 0.5
        tiled = -(-side // TILE) * TILE
        work["unpacked_winograd" if unpacked else "winograd"] = layer.macs * (tiled / side) ** 2
    elif unpacked:
        work["unpacked"] = layer.macs
    elif few:
        work["large_stem" if layer.kernel > 3 else "stem"] = layer.macs
    else:
        work["conv"] = layer.macs
    return work


def matrix(
    layers: Iterable[Layer], features: Sequence[str], merge: Mapping[str, str], threads: int = 1
) -> NDArray[np.float64]:
    """Work of each layer, shape (layers, features), in `UNIT`; ``launch`` is one for the network,
    charged to its layers in equal parts.

    Args:
        features: names of `WORK` that have a constant.
        merge: where the work of other names goes, `APART` where it does not say; ``""`` for
            nowhere. Names in neither are not charged.
        threads: of the runtime.
    """
    column = {name: index for index, name in enumerate(features)}
    rows = []
    layers = list(layers)
    for layer in layers:
        row = np.zeros(len(features))
        if "launch" in column:
            row[column["launch"]] = 1 / (len(layers) * UNIT)
        for name, amount in layer_work(layer, threads).items():
            target: str | None = name
            while target is not None and target not in column:
                other = merge.get(target, APART.get(target))
                amount *= SAVED.get((target, other or ""), 1.0)
                target = other
            if target is not None:
                row[column[target]] += amount / UNIT
        rows.append(row)
    return np.array(rows).reshape(-1, len(features))
