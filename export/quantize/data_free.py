"""Calibration inputs from the network itself, for data-free quantization.

Cai et al., "ZeroQ: A Novel Zero Shot Quantization Framework", CVPR 2020, arXiv 2001.00281, section
3.1: BatchNormalization remembers mean and deviation of what it saw in training. Noise that is
changed until the network's activations have these statistics (distilled data) calibrates it: it
gives every tensor a range, those behind attention and norms without memory included, which the
closed forms of Nagel et al. (ICCV 2019, arXiv 1906.04721) do not reach. Whatever reads feeds
(ranges, bias correction, searches) takes it in place of images.

The statistics stand in BatchNormalization nodes, so the graph must be the one captured, before the
rewrite folds them. Distilled data has no classes worth a name: accuracy cannot be judged on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgec.export.errors import UnsupportedError
from edgec.export.quantize.graph import constant_of, input_specs, prepared_copy, require_float32
from edgec.export.quantize.replay.graph import Replay
from edgec.export.rewrite.graph import is_op


@dataclass(frozen=True)
class _Memory:
    """What one BatchNormalization saw: its input and, per channel, mean and deviation."""

    tensor: str
    mean: Tensor
    std: Tensor


def distil(
    model: ir.Model,
    count: int = 32,
    *,
    bounds: tuple[float, float] | None = None,
    batch: int = 8,
    steps: int = 80,
    rate: float = 0.1,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> list[dict[str, NDArray[np.float32]]]:
    """Inputs whose activations have the statistics that BatchNormalization remembers.

    Args:
        model: captured graph with one float32 input of static shape (batch 1), BatchNormalization
            not folded; not modified.
        count: how many samples.
        bounds: smallest and largest value an input can have (0 and 1 for plain pixels), if known.
        batch: samples whose statistics are matched together.
        steps, rate: of Adam, per batch.
        seed: of the noise that it starts from.
        on_progress: called with the number of samples done.

    Raises:
        UnsupportedError: EC360 not float32, EC366 an operator has no replay, EC367 no
            BatchNormalization, or more than one input.
    """
    copy = prepared_copy(model)
    require_float32(copy)
    specs = list(input_specs(copy).values())
    memories = _memories(copy)
    other_inputs = len(specs) != 1 or specs[0].dtype != np.float32
    if other_inputs or not memories:
        raise UnsupportedError(
            "EC367",
            "the network does not say what its activations look like",
            why="it has several inputs, or one that is not float32"
            if other_inputs
            else "no BatchNormalization with constant statistics is in the graph",
            fix="give calibration images (--calib), or the network before its BatchNorm is folded",
        )
    replay = Replay(copy)
    generator = torch.Generator().manual_seed(seed)
    shape = [1 if d is None else d for d in specs[0].shape]
    found: list[dict[str, NDArray[np.float32]]] = []
    while len(found) < count:
        size = min(batch, count - len(found))
        noise = torch.randn([size, *shape], generator=generator)
        if bounds is not None:
            low, high = bounds
            noise = (0.5 * (low + high) + 0.25 * (high - low) * noise).clamp(low, high)
        images = _match(replay, specs[0].name, noise, memories, bounds, steps, rate)
        found += [{specs[0].name: image.numpy()} for image in images]
        if on_progress is not None:
            on_progress(len(found))
    return found


def mismatch(replay: Replay, name: str, images: Tensor, memories: list[_Memory]) -> Tensor:
    """Squared differences of mean and deviation, in deviations, averaged over channels and layers.

    Args:
        replay: of the graph.
        name: of its input.
        images: samples, each of the input's shape, stacked.
        memories: what to compare with.
    """
    watch = [memory.tensor for memory in memories]
    seen = [replay({name: image}, watch=watch) for image in images]
    total = torch.zeros(())
    for memory in memories:
        rows = [s[memory.tensor].transpose(0, 1).flatten(1) for s in seen]
        values = torch.cat(rows, dim=1)
        mean = (values.mean(1) - memory.mean) / memory.std
        std = values.std(1, unbiased=False) / memory.std - 1
        total = total + mean.square().mean() + std.square().mean()
    return total / len(memories)


def _match(
    replay: Replay,
    name: str,
    images: Tensor,
    memories: list[_Memory],
    bounds: tuple[float, float] | None,
    steps: int,
    rate: float,
) -> Tensor:
    images = images.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            mismatch(replay, name, images, memories).backward()
            optimizer.step()
            schedule.step()
            if bounds is not None:
                with torch.no_grad():
                    images.clamp_(*bounds)
    return images.detach()


def _memories(model: ir.Model) -> list[_Memory]:
    found = []
    for node in model.graph:
        if not is_op(node, "BatchNormalization") or node.inputs[0] is None:
            continue
        mean, variance = constant_of(node.inputs[3]), constant_of(node.inputs[4])
        if mean is None or variance is None:
            continue
        std = np.sqrt(np.maximum(variance.astype(np.float64), 1e-10)).astype(np.float32)
        name = str(node.inputs[0].name)
        found.append(_Memory(name, torch.tensor(mean.astype(np.float32)), torch.tensor(std)))
    return found
