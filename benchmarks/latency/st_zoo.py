"""Networks of the STM32 model zoo that were measured on the NPU of an STM32N6.

    python benchmarks/latency/st_zoo.py rows.csv st_layers.json

counts the layers of every network of ``rows.csv`` (columns of ``published_latencies.csv``) that
`networks` does not define. The zoo's README files hold the measurements (tables "Reference NPU
inference time"). Its PyTorch networks are those of pytorchcv and timm, which have to be installed;
``torch_layers.py`` counts them on the meta device.
"""

from __future__ import annotations

import csv
import importlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

WIDTHS = {"a025": "wd4", "a050": "wd2", "a075": "w3d4", "a100": "w1"}
PYTORCHCV = {
    "darknettiny": "darknet.darknet_tiny",
    "hardnet39ds": "hardnet.hardnet39ds",
    "peleenet": "peleenet.peleenet",
    "preresnet18_a025": "preresnet.preresnet18_wd4",
    "proxylessnas": "proxylessnas.proxylessnas_mobile",
    "regnetx002": "regnet.regnetx002",
    "resnet18wd4": "resnet.resnet18_wd4",
    "shufflenetv2_x050": "shufflenetv2.shufflenetv2_wd2",
    "shufflenetv2_x100": "shufflenetv2.shufflenetv2_w1",
    "shufflenetv2b_x050": "shufflenetv2b.shufflenetv2b_wd2",
    "shufflenetv2b_x100": "shufflenetv2b.shufflenetv2b_w1",
    "squeezenet_v1.1": "squeezenet.squeezenet_v1_1",
    **{
        f"{family}_{width}": f"{module}.{family}_{suffix}"
        for family, module in {
            "mobilenet": "mobilenet",
            "mobilenetb": "mobilenetb",
            "mobilenetv2": "mobilenetv2",
            "mobilenetv2b": "mobilenetv2",
            "fdmobilenet": "fdmobilenet",
        }.items()
        for width, suffix in WIDTHS.items()
    },
}
"""Module and function of pytorchcv, by the zoo's name without ``_pt``."""

TIMM = {
    "efficientnet_v2B0": "tf_efficientnetv2_b0",
    "efficientnet_v2B1": "tf_efficientnetv2_b1",
    "mnasnet_d050": "mnasnet_050",
    "mobilenetv2_w035": "mobilenetv2_035",
    "mobilenetv4small": "mobilenetv4_conv_small",
    "semnasnet100": "semnasnet_100",
}

FAMILY = re.compile(
    r"(mobilenet|fdmobilenet|mobilenetv2|shufflenetv2|efficientnet_v2)b?_?[awxB]?([\d.]+)$"
)


def bare(model: str) -> str:
    """The zoo's name without how it was trained and where it comes from."""
    return re.sub(r"_(fft|tfs|tl|pt)$", "", model)


def alike(model: str) -> str:
    """Architecture and width, in two words where there are widths: what networks of several names
    have in common that differ in input, classifier or framework only."""
    name = bare(model).replace("mobilenet_v1", "mobilenet").replace("mobilenet_v2", "mobilenetv2")
    match = FAMILY.match(name)
    if match is None:
        return name
    width = float(match[2])
    return f"{match[1]} {width / 100 if width > 10 else width:g}"


def key_of(row: Mapping[str, str], classes: int) -> tuple[str, int]:
    """``model@input/classes`` of a row, and the classes: `classes` where the row does not tell."""
    told = re.search(r"classes=(\d+)", row["notes"])
    count = int(told[1]) if told else classes
    return f"{row['model']}@{row['input']}/{count}", count


def main(rows: Path, out: Path) -> None:
    """Count what has a definition; name what has none."""
    import torch
    from networks import named
    from torch_layers import LayerCounter

    from edgec.models.timm_bridge import import_timm

    timm = import_timm()
    found = {}
    with rows.open(newline="", encoding="utf-8") as file:
        wanted = [row for row in csv.DictReader(file) if "N6570" in row["device"]]
    for row in wanted:
        (key, count), name = key_of(row, 1000), bare(row["model"])
        if named(row["model"], row["input"], count) is not None:
            continue
        with torch.device("meta"):
            if name in PYTORCHCV:
                module, function = PYTORCHCV[name].split(".")
                models = importlib.import_module(f"pytorchcv.models.{module}")
                network = getattr(models, function)(num_classes=count)
            elif name in TIMM:
                network = timm.create_model(TIMM[name], num_classes=count)
            else:
                print(f"{key}: no definition", file=sys.stderr)
                continue
        for parent in network.modules():
            for child, layer in list(parent.named_children()):
                # the last pool of pytorchcv is as large as the map of a 224 x 224 input
                if isinstance(layer, torch.nn.AvgPool2d) and layer.kernel_size in (7, 13):
                    setattr(parent, child, torch.nn.AdaptiveAvgPool2d(1))
        height, width, _ = (int(part) for part in row["input"].split("x"))
        image = torch.empty(1, 3, height, width, device="meta")
        with torch.no_grad(), LayerCounter() as counter:
            network.to("meta").eval()(image)
        found[key] = counter.rows
    out.write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
