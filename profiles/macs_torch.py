"""Multiply-accumulates of a `torch.nn.Module`, counted where its operators are dispatched.

What is counted, and why, is in `edgec.profiles.macs`. Working below the module level sees matrix
products that no module stands for (attention), and those only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgec.profiles.macs import MacCount


def count_module_macs(network: nn.Module, *inputs: Tensor) -> MacCount:
    """Count the MACs of ``network(*inputs)``; nothing is trained, parameters stay as they are.

    Tensors on the meta device work too and cost no arithmetic. A module that runs twice is
    counted twice; `MacCount.by_module` names the innermost module that was running.
    """
    count = MacCount()
    with torch.no_grad(), _module_stack(network) as stack, _Counter(count, stack):
        network(*inputs)
    return count


@contextmanager
def _module_stack(network: nn.Module) -> Iterator[list[str]]:
    """The paths of the modules whose forward is running, innermost last."""
    stack: list[str] = []
    handles = []
    for path, module in network.named_modules():

        def enter(module: nn.Module, args: Any, path: str = path) -> None:
            stack.append(path)

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            stack.pop()

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave))
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


class _Counter(TorchDispatchMode):
    def __init__(self, count: MacCount, stack: Sequence[str]) -> None:
        super().__init__()
        self.count = count
        self.stack = stack

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        rule = _RULES.get(func.overloadpacket)
        if rule is not None:
            module = self.stack[-1] if self.stack else ""
            self.count.add(module, func.overloadpacket.__name__, rule(args, output))
        return output


def _conv(args: tuple[Any, ...], output: Tensor) -> int:
    """Arguments: input, weight, bias, stride, padding, dilation, transposed, ..."""
    source, weight, transposed = args[0], args[1], args[6]
    # each input pixel is spread by a transposed kernel, each output pixel gathered by a plain one
    return int((source if transposed else output).numel() * math.prod(weight.shape[1:]))


def _matmul(args: tuple[Any, ...], output: Tensor) -> int:
    return int(output.numel() * args[0].shape[-1])


def _add_matmul(args: tuple[Any, ...], output: Tensor) -> int:
    return int(output.numel() * args[1].shape[-1])


def _attention(args: tuple[Any, ...], output: Any) -> int:
    """Both products of fused attention: query (..., L, E), key (..., S, E), value (..., S, V)."""
    query, key, value = args[:3]
    return int(math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


_ATEN = torch.ops.aten
_RULES: dict[Any, Callable[[tuple[Any, ...], Any], int]] = {
    _ATEN.convolution: _conv,
    _ATEN.mm: _matmul,
    _ATEN.bmm: _matmul,
    _ATEN.mv: _matmul,
    _ATEN.dot: lambda args, output: int(args[0].numel()),
    _ATEN.addmm: _add_matmul,
    _ATEN.baddbmm: _add_matmul,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
    _ATEN._scaled_dot_product_flash_attention: _attention,
    _ATEN._scaled_dot_product_efficient_attention: _attention,
    _ATEN._scaled_dot_product_cudnn_attention: _attention,
}
