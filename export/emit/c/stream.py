"""Expansions that never exist as a whole: a 1 x 1 convolution and the depthwise one after it.

An inverted residual block (Sandler et al., CVPR 2018) widens its input several times before a
depthwise convolution narrows nothing but the image; the wide tensor is where the memory of such
networks peaks. Computed row by row it needs the rows of one window only (MCUNetV2, NeurIPS 2021,
calls this patch-based inference; with full rows nothing is computed twice). The kernels are the
same, so is every byte of the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgec.export.emit.c.call import Call, Fields, Share, Table
from edgec.export.emit.c.lower import Lowered
from edgec.profiles.memory import overlap

KERNEL = "edgec_expand_depthwise_"
FUNCTIONS = {"s8": "edgec_lookup_s8", "s16": "edgec_interpolate_s16"}
"""What may stand between the convolutions, by type; its one constant is a table."""
_ONE_PIXEL = {"batch": 1, "k_h": 1, "k_w": 1, "stride_h": 1, "stride_w": 1, "groups": 1}
_NO_PADDING = {"pad_h": 0, "pad_w": 0}


@dataclass(frozen=True)
class Chain:
    """Calls that can be one.

    Attributes:
        calls: positions: convolution, function of its elements where there is one, depthwise
            convolution.
        between: tensors that go.
        bytes: of the largest of them.
    """

    calls: tuple[int, ...]
    between: tuple[int, ...]
    bytes: int


def chains(lowered: Lowered) -> Iterator[Chain]:
    """All there are, in order."""
    readers: dict[int, list[int]] = {}
    for position, call in enumerate(lowered.calls):
        for index in call.reads:
            readers.setdefault(index, []).append(position)
    sizes = {b.id: b.size for b in lowered.program.buffers}

    def only_reader(index: int) -> int | None:
        found = readers.get(index, [])
        return found[0] if len(found) == 1 and index not in lowered.outputs else None

    for position, call in enumerate(lowered.calls):
        kind = call.kernel.removeprefix("edgec_conv_")
        if kind not in FUNCTIONS or not _by_rows(call):
            continue
        path, between = [position], [call.output]
        follower = only_reader(call.output)
        if follower is not None and lowered.calls[follower].kernel == FUNCTIONS[kind]:
            path.append(follower)
            between.append(lowered.calls[follower].output)
            follower = only_reader(between[-1])
        if follower is None or lowered.calls[follower].kernel != f"edgec_depthwise_{kind}":
            continue
        if lowered.calls[follower].parameters["batch"] == 1:
            most = max(sizes[f"t{index}"] for index in between)
            yield Chain((*path, follower), tuple(between), most)


def widest(lowered: Lowered) -> Chain | None:
    """The one with the largest tensor, the first of equals; None where there are none."""
    return max(chains(lowered), key=lambda c: (c.bytes, -c.calls[0]), default=None)


def joined(lowered: Lowered, chain: Chain) -> Lowered:
    """The network with one call in place of the calls of `chain`."""
    parts = [lowered.calls[position] for position in chain.calls]
    calls = list(lowered.calls)
    calls[chain.calls[-1]] = _join(parts)
    for position in reversed(chain.calls[:-1]):
        del calls[position]
    return lowered.by(calls)


def _by_rows(call: Call) -> bool:
    wanted = _ONE_PIXEL | _NO_PADDING
    return all(call.parameters[name] == value for name, value in wanted.items())


def _join(parts: list[Call]) -> Call:
    expand, depthwise = parts[0], parts[-1]
    wide, narrow = (dict(part.parameters) for part in (expand, depthwise))
    size = {name: _number(narrow, name) for name in ("in_h", "in_w", "in_c", "out_h", "out_w")}
    window = (_number(narrow, "k_h") - 1) * _number(narrow, "dilation_h") + 1
    stride, pad = _number(narrow, "stride_h"), _number(narrow, "pad_h")
    row = size["in_w"] * size["in_c"]
    kind = expand.kernel.removeprefix("edgec_conv_")
    width = 1 if kind == "s8" else 2
    held = -(-window * row * width // 4) * 4
    table = parts[1].parameters["table"] if len(parts) > 2 else Table(None)
    distance = overlap.streamed(
        _number(wide, "in_w") * _number(wide, "in_c") * width,
        size["out_w"] * _number(narrow, "out_c") * width,
        size["in_h"],
        size["out_h"],
        window,
        stride,
        pad,
    )
    return Call(
        KERNEL + kind,
        {
            "in_h": size["in_h"],
            "out_h": size["out_h"],
            "stride_h": stride,
            "pad_h": pad,
            "window": held,
            "expand": Fields(wide | {"in_h": 1, "out_h": 1}),
            "activation": Fields({"count": row, "table": table}),
            "depthwise": Fields(narrow | {"in_h": window, "out_h": 1, "pad_h": 0}),
        },
        expand.inputs,
        depthwise.output,
        (Share(0, distance),),
        expand.macs + depthwise.macs,
        held + max(expand.scratch, depthwise.scratch),
        name=f"{expand.name} + {depthwise.name}",
    )


def _number(fields: Mapping[str, object], name: str) -> int:
    value = fields[name]
    assert isinstance(value, int)
    return value
