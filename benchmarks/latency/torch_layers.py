"""Layer facts of torch networks, counted on the meta device where no arithmetic is done.

    python benchmarks/latency/torch_layers.py rows.csv layers.json

writes, for every (model, input) of timm in ``rows.csv`` and every network of `hub`, one row per
operator that computes. Rows have the fields of the ncnn layer facts, so that all fits read one
format.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hub
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from edgec.models.timm_bridge import import_timm

VIEWS = frozenset(
    "view _unsafe_view reshape t transpose permute expand squeeze unsqueeze slice select split "
    "split_with_sizes chunk unbind detach alias as_strided unfold lift_fresh diagonal".split()
)


class LayerCounter(TorchDispatchMode):
    """Collects one row per dispatched operator; views cost nothing and are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if name in VIEWS or not isinstance(first, Tensor):
            return output
        inputs = [a for a in args if isinstance(a, Tensor)]
        for a in args:
            if isinstance(a, (tuple, list)):
                inputs += [t for t in a if isinstance(t, Tensor)]
        row: dict[str, Any] = {
            "layer": name,
            "kind": name,
            "macs": 0,
            "weights": 0,
            "in_elems": sum(t.numel() for t in inputs),
            "out_elems": first.numel(),
            "kernel": 0,
            "stride": 0,
            "out_hw": 0,
            "in_ch": 0,
            "out_ch": 0,
        }
        if name == "convolution":
            row.update(_convolution(args, first))
        elif name in ("mm", "bmm", "addmm", "baddbmm"):
            left, right = inputs[-2:]
            row.update(
                kind="bmm" if "b" in name.removeprefix("add") else "fc",
                macs=first.numel() * left.shape[-1],
                weights=0 if "b" in name.removeprefix("add") else right.numel(),
                in_elems=left.numel(),
                out_hw=math.prod(first.shape[:-1]),
                in_ch=left.shape[-1],
                out_ch=first.shape[-1],
            )
        elif name == "cat" and args[1:] == (1,) and first.ndim == 4:
            row.update(in_ch=math.gcd(*(t.shape[1] for t in inputs)))
        elif name.startswith("_scaled_dot_product"):
            query, key, value = args[:3]
            pairs = math.prod(query.shape[:-1]) * key.shape[-2]
            row.update(kind="attention", macs=pairs * (query.shape[-1] + value.shape[-1]))
        self.rows.append(row)
        return output


def _convolution(args: tuple[Any, ...], output: Tensor) -> dict[str, Any]:
    source, weight, stride, groups = args[0], args[1], args[3], args[8]
    out_ch, per_group, *taps = weight.shape
    depthwise = per_group == 1 and groups > 1
    kind = "dw" if depthwise else "gconv" if groups > 1 else "conv"
    if kind == "conv" and math.prod(taps) == 1:
        kind = "pw"
    return {
        "kind": kind,
        "macs": output.numel() * per_group * math.prod(taps),
        "weights": weight.numel(),
        "in_elems": source.numel(),
        "kernel": max(taps),
        "stride": max(stride),
        "out_hw": math.prod(output.shape[2:]),
        "in_ch": source.shape[1],
        "out_ch": out_ch,
        "groups": groups,
    }


def timm_layers(name: str, size: tuple[int, ...]) -> list[dict[str, Any]]:
    """Rows of a timm network at an input of shape (H, W)."""
    timm = import_timm()
    with torch.device("meta"):
        try:
            network = timm.create_model(name, pretrained=False, img_size=size)
        except (TypeError, RuntimeError):
            network = timm.create_model(name, pretrained=False)
    network = network.to("meta").eval()
    image = torch.empty(1, 3, *size, device="meta")
    with torch.no_grad(), LayerCounter() as counter:
        network(image)
    return counter.rows


def main(rows: Path, out: Path) -> None:
    """Count every timm network of `rows`; what cannot be built is reported and left out."""
    with rows.open(newline="") as file:
        wanted = sorted(
            {
                (row["model"], row["input"])
                for row in csv.DictReader(file)
                if "pytorch-image-models" in row["source"]
            }
            | {(timm, hub.SIZES.get(name, "224x224x3")) for name, timm in hub.NETWORKS.items()}
        )
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for index, (model, shape) in enumerate(wanted):
        key = f"{model}@{shape}"
        if key in found:
            continue
        height, width, _ = (int(part) for part in shape.split("x"))
        try:
            found[key] = timm_layers(model, (height, width))
        except Exception as error:  # networks that timm has since renamed or that refuse meta
            print(f"{key}: {type(error).__name__}: {str(error)[:120]}", file=sys.stderr)
        if index % 50 == 49:
            print(f"{index + 1} of {len(wanted)}, {len(found)} counted", file=sys.stderr)
            out.write_text(json.dumps(found))
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
