"""Layer facts of the small networks of published microcontroller measurements.

Definitions: MobileNet (arXiv:1704.04861), MobileNetV2 (arXiv:1801.04381), FD-MobileNet
(arXiv:1802.03750), ResNet for CIFAR (arXiv:1512.03385), the variants of the STM32 model zoo, and
the four reference networks of MLPerf Tiny (mlcommons/tiny). Rows have the fields of the ncnn facts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

Rows = list[dict[str, Any]]


class Net:
    """Builds rows while keeping the shape (height, width, channels) of the current tensor."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        self.shape = (height, width, channels)
        self.rows: Rows = []

    def conv(
        self, channels: int, kernel: int | tuple[int, int] = 1, stride: int | tuple[int, int] = 1
    ) -> Net:
        """Convolution with SAME padding and a fused activation."""
        return self._window("conv", channels, kernel, stride)

    def dw(self, kernel: int = 3, stride: int = 1) -> Net:
        """Depthwise convolution with SAME padding."""
        return self._window("dw", self.shape[2], kernel, stride)

    def fc(self, outputs: int) -> Net:
        """Fully connected layer on everything."""
        inputs = math.prod(self.shape)
        self._row("fc", inputs * outputs, inputs * outputs, inputs, outputs, 0, 0, inputs, outputs)
        self.shape = (1, 1, outputs)
        return self

    def add(self) -> Net:
        """Residual addition."""
        n = math.prod(self.shape)
        self._row("elementwise", 0, 0, 2 * n, n, 0, 0, 0, 0)
        return self

    def pool(self) -> Net:
        """Global average."""
        n, channels = math.prod(self.shape), self.shape[2]
        self._row("pool", 0, 0, n, channels, 0, 0, channels, channels)
        self.shape = (1, 1, channels)
        return self

    def _window(
        self,
        kind: str,
        channels: int,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int],
    ) -> Net:
        height, width, inputs = self.shape
        kernels = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        strides = stride if isinstance(stride, tuple) else (stride, stride)
        taps = math.prod(kernels)
        out = (math.ceil(height / strides[0]), math.ceil(width / strides[1]), channels)
        depth = 1 if kind == "dw" else inputs
        if kind == "conv" and taps == 1:
            kind = "pw"
        macs = math.prod(out) * taps * depth
        self._row(
            kind,
            macs,
            channels * taps * depth,
            math.prod(self.shape),
            math.prod(out),
            max(kernels),
            max(strides),
            inputs,
            channels,
        )
        self.shape = out
        return self

    def _row(
        self,
        kind: str,
        macs: int,
        weights: int,
        in_elems: int,
        out_elems: int,
        kernel: int,
        stride: int,
        in_ch: int,
        out_ch: int,
    ) -> None:
        self.rows.append(
            {
                "layer": kind,
                "kind": kind,
                "macs": macs,
                "weights": weights,
                "in_elems": in_elems,
                "out_elems": out_elems,
                "kernel": kernel,
                "stride": stride,
                "out_hw": out_elems // max(out_ch, 1),
                "in_ch": in_ch,
                "out_ch": out_ch,
            }
        )


def _blocks(net: Net, width: Sequence[float], table: Sequence[tuple[int, int]]) -> Net:
    for scale, (channels, stride) in zip(width, table, strict=True):
        net.dw(stride=stride).conv(int(channels * scale))
    return net


def mobilenet_v1(size: int, channels: int, alpha: float, classes: int) -> Rows:
    """MobileNet at a width."""
    net = Net(size, size, channels).conv(int(32 * alpha), 3, 2)
    table = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
    table += [(1024, 2), (1024, 1)]
    return _blocks(net, [alpha] * len(table), table).pool().fc(classes).rows


FD_TABLE = [(64, 2), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 4, (1024, 1)]


def fdmobilenet(size: int, alpha: float, classes: int) -> Rows:
    """FD-MobileNet at a width."""
    net = Net(size, size, 3).conv(int(32 * alpha), 3, 2)
    return _blocks(net, [alpha] * len(FD_TABLE), FD_TABLE).pool().fc(classes).rows


def st_fdmobilenet_v1(size: int, classes: int) -> Rows:
    """The STM32 model zoo's FD-MobileNet with a width for each block."""
    width = [0.75, 0.625, 0.5, 0.375, *[0.25] * 7]
    net = Net(size, size, 3).conv(16, 3, 2)
    return _blocks(net, width, FD_TABLE).pool().fc(classes).rows


def mobilenet_v2(size: int, alpha: float, classes: int) -> Rows:
    """MobileNetV2; widths are rounded to multiples of 8 as in Keras."""

    def width(channels: float) -> int:
        rounded = max(8, int(channels + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * channels else rounded

    net = Net(size, size, 3).conv(width(32 * alpha), 3, 2)
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1)]
    table += [(6, 160, 3, 2), (6, 320, 1, 1)]
    for expand, channels, repeats, first in table:
        for index in range(repeats):
            before = net.shape[2]
            stride = first if index == 0 else 1
            if expand > 1:
                net.conv(before * expand)
            net.dw(stride=stride).conv(width(channels * alpha))
            if stride == 1 and net.shape[2] == before:
                net.add()
    return net.conv(width(1280 * alpha) if alpha > 1 else 1280).pool().fc(classes).rows


def resnet_cifar(depth: int, classes: int) -> Rows:
    """ResNet of 6n + 2 layers on 32x32, with convolutions in the shortcuts."""
    net = Net(32, 32, 3).conv(16, 3)
    for stage, channels in enumerate((16, 32, 64)):
        for block in range((depth - 2) // 6):
            stride = 2 if stage and not block else 1
            if stride == 2:
                shape = net.shape
                net.conv(channels, 1, 2)
                net.shape = shape
            net.conv(channels, 3, stride).conv(channels, 3).add()
    return net.pool().fc(classes).rows


def ds_cnn() -> Rows:
    """MLPerf Tiny keyword spotting."""
    net = Net(49, 10, 1).conv(64, (10, 4), (2, 2))
    for _ in range(4):
        net.dw().conv(64)
    return net.pool().fc(12).rows


def autoencoder() -> Rows:
    """MLPerf Tiny anomaly detection."""
    net = Net(1, 1, 640)
    for width in (128, 128, 128, 128, 8, 128, 128, 128, 128, 640):
        net.fc(width)
    return net.rows


def named(model: str, shape: str, classes: int) -> Rows | None:
    """Rows of a network by its name in the published tables; None for others."""
    tiny = {
        "FC-AutoEncoder ToyADMOS": autoencoder,
        "ResNet8 CIFAR-10": lambda: resnet_cifar(8, 10),
        "DS-CNN KWS": ds_cnn,
        "MobileNetV1-0.25 VWW": lambda: mobilenet_v1(96, 3, 0.25, 2),
    }
    if model in tiny:
        return tiny[model]()
    if re.fullmatch(r"\d+x\d+x\d+", shape) is None:
        return None
    size, _, channels = (int(part) for part in shape.split("x"))
    if match := re.fullmatch(r"mobilenet_v2_([\d.]+)(_fft)?", model):
        return mobilenet_v2(size, float(match[1]), classes)
    if match := re.fullmatch(r"mobilenet_v1_([\d.]+)(_fft|_tfs)?", model):
        return mobilenet_v1(size, channels, float(match[1]), classes)
    if match := re.fullmatch(r"fdmobilenet_([\d.]+)", model):
        return fdmobilenet(size, float(match[1]), classes)
    if match := re.fullmatch(r"resnet_v1_(\d+)", model):
        return resnet_cifar(int(match[1]), classes)
    if model == "st_fdmobilenet_v1":
        return st_fdmobilenet_v1(size, classes)
    return None
