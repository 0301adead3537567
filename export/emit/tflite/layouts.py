"""In which orders of axes an operator can compute: rules that the layout search chooses from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgec.export.emit.tflite.graph import Node, Value
from edgec.export.emit.tflite.perms import (
    CHANNELS_LAST,
    Perm,
    distinct,
    identity,
    inverse,
    plain_targets,
    stored_move,
    with_last,
)


@dataclass(frozen=True)
class Config:
    """One way to execute an operator.

    Attributes:
        inputs: order of each operand (of constants, too: they are stored as asked).
        outputs: order of each output.
        cost: beyond that of other configs of the operator.
        form: which form, for operators with several.
    """

    inputs: tuple[Perm, ...]
    outputs: tuple[Perm, ...]
    cost: float = 0.0
    form: str = ""


@dataclass(frozen=True)
class Choices:
    """What is known when an operator's configs are asked for.

    Attributes:
        offered: orders in which each operand is there; empty for constants.
        wanted: orders that readers of each output would like.
    """

    offered: tuple[tuple[Perm, ...], ...]
    wanted: tuple[tuple[Perm, ...], ...]

    def of_rank(self, rank: int) -> tuple[Perm, ...]:
        """All orders of tensors of `rank` axes, ONNX's and channels-last among them."""
        perms = [p for group in (*self.offered, *self.wanted) for p in group if len(p) == rank]
        defaults = [identity(rank)] + ([CHANNELS_LAST] if rank == 4 else [])
        return distinct([*perms, *defaults])


_OTHER_ORDER = 0.4
"""Nanoseconds per element, a tenth of a TRANSPOSE: decides between as many here or there."""

Rule = Callable[[Node, Choices], Iterator[Config]]


def anywhere(node: Node, choices: Choices) -> Iterator[Config]:
    """All operands and outputs in one order, whichever."""
    rank = len(node.outputs[0].shape)
    for perm in choices.of_rank(rank):
        # of about equally cheap orders take that of images: convolutions stay side by side
        other = rank == 4 and perm != CHANNELS_LAST
        yield uniform(node, perm, _OTHER_ORDER * node.outputs[0].elements if other else 0.0)


def uniform(node: Node, perm: Perm, cost: float = 0.0, form: str = "") -> Config:
    """`perm` for everything of its rank, ONNX's order for the rest (vectors, scalars)."""

    def fitting(value: Value | None) -> Perm:
        rank = 0 if value is None else len(value.shape)
        return perm if rank == len(perm) else identity(rank)

    return Config(
        tuple(fitting(v) for v in node.inputs), tuple(fitting(v) for v in node.outputs), cost, form
    )


def channels_last(node: Node, choices: Choices) -> Iterator[Config]:
    """Images as TFLite stores them: batch, height, width, channels."""
    yield Config(
        (CHANNELS_LAST, *(identity(len(v.shape)) if v else () for v in node.inputs[1:])),
        tuple(CHANNELS_LAST for _ in node.outputs),
    )


def axis_last(node: Node, choices: Choices) -> Iterator[Config]:
    """The operator's axis is stored last (softmax, L2 norm)."""
    rank = len(node.outputs[0].shape)
    axis = int(node.attrs.get("axis", rank - 1)) % rank
    for perm in distinct(with_last(p, axis) for p in choices.of_rank(rank)):
        yield uniform(node, perm)


def normalised_last(node: Node, choices: Choices) -> Iterator[Config]:
    """The axes from `axis` on are stored last, in any order among themselves."""
    rank = len(node.outputs[0].shape)
    axes = range(int(node.attrs.get("axis", rank - 1)) % rank, rank)
    for perm in distinct(with_last(p, *axes) for p in choices.of_rank(rank)):
        yield uniform(node, perm)


def linear(node: Node, choices: Choices) -> Iterator[Config]:
    """The contracted axis is stored last; the output has the same order."""
    rank = len(node.outputs[0].shape)
    axis = rank + int(node.attrs["axis"])
    for perm in distinct(with_last(p, axis) for p in choices.of_rank(rank)):
        rest = tuple(identity(len(v.shape)) if v else () for v in node.inputs[1:])
        yield Config((perm, *rest), (perm,))


def convolution(node: Node, choices: Choices) -> Iterator[Config]:
    """Channels last; a pointwise convolution does not care about the order of the other axes."""
    rest = tuple(identity(len(v.shape)) if v else () for v in node.inputs[1:])
    if not is_pointwise(node):
        yield from channels_last(node, choices)
        return
    for perm in distinct(with_last(p, 1) for p in choices.of_rank(4)):
        yield Config((perm, *rest), (perm,))


def is_pointwise(node: Node) -> bool:
    """A dense 1×1 convolution without stride or padding."""
    weight = node.inputs[1]
    return (
        weight is not None
        and weight.shape[2:] == (1, 1)
        and int(node.attrs.get("group", 1)) == 1
        and not any(node.attrs.get("pads", ()))
        and set(node.attrs.get("strides", (1,))) == {1}
        and str(node.attrs.get("auto_pad", "NOTSET")) in ("NOTSET", "VALID")
    )


def reduction(node: Node, choices: Choices) -> Iterator[Config]:
    """Any order; without `keepdims` the output has what is left of it."""
    rank, axes = len(node.operands[0].shape), node.attrs["axes"]
    if node.attrs["keepdims"]:
        yield from anywhere(node, choices)
        return
    kept = [axis for axis in range(rank) if axis not in axes]
    perms = list(choices.of_rank(rank))
    for wanted in choices.wanted[0]:
        rest = tuple(kept[axis] for axis in wanted)
        perms.append((*rest, *axes))
        if rest:
            perms.append((*rest[:-1], *axes, rest[-1]))
    for perm in distinct(p for p in perms if len(p) == rank):
        left = tuple(kept.index(axis) for axis in perm if axis not in axes)
        yield Config((perm,), (left,))


def product(node: Node, choices: Choices) -> Iterator[Config]:
    """A batch of matrix products: batch axes first, in one order.

    Each matrix may be stored transposed: of the second operand for nothing (`adj_y`), of the first
    at the cost of a copy inside the kernel (`adj_x`), of the output by exchanging the operands.
    Kernels rearrange the second operand before they multiply (XNNPACK packs it), so that the
    smaller one belongs there: the weights of an attention are many times its values.
    """
    rank = len(node.outputs[0].shape)
    m, n = rank - 2, rank - 1
    batches = distinct(tuple(axis for axis in perm if axis < m) for perm in choices.of_rank(rank))
    for batch in batches:
        plain, turned = (*batch, m, n), (*batch, n, m)
        for left in (plain, turned):
            for right in (plain, turned):
                cost = _packed(node, 1) + _adjoint(node, 0) * (left == turned)
                yield Config((left, right), (plain,), cost)
                cost = _packed(node, 0) + _adjoint(node, 1) * (right == plain)
                yield Config((left, right), (turned,), cost, "exchanged")


def _adjoint(node: Node, index: int) -> float:
    value = node.operands[index]
    return 0.0 if value.const is not None else 2000.0 + 3.9 * value.elements


def _packed(node: Node, index: int) -> float:
    value = node.operands[index]
    return 0.0 if value.const is not None else 0.8 * value.elements


def view(node: Node, choices: Choices) -> Iterator[Config]:
    """Orders between which the view moves little data."""
    change = node.attrs["view"]
    source, output = node.operands[0], node.outputs[0]
    ranks = len(source.shape), len(output.shape)
    if change is None:
        yield Config((identity(ranks[0]),), (identity(ranks[1]),), 400.0)
        return
    sources = distinct([*choices.offered[0], *((identity(ranks[0]),))])
    if not choices.offered[0]:
        back = change.inverse()
        sources = distinct([*(plain_targets(back, p) for p in choices.wanted[0]), *sources])
    for perm in sources:
        for target in distinct(
            [plain_targets(change, perm), *choices.wanted[0], identity(ranks[1])]
        ):
            move = stored_move(change, perm, target)
            wide = source.dtype.itemsize / 4
            yield Config((perm,), (target,), wide * move.cost(source.elements))


def stored_axis(perm: Perm, axis: int) -> int:
    """Where an axis of the value is in the stored tensor."""
    return inverse(perm)[axis]
