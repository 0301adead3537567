"""What re-parameterization gains: multi-branch networks of timm, trained form beside fused form.

    PYTHONPATH=.src python benchmarks/reparameterize.py --json reparameterize.json

Each network is captured and rewritten twice: as it was trained, and with its branches fused first
(timm's own `reparameterize_model`, what `edgec export --model timm:NAME` does). Rows give nodes,
MACs, parameters, largest absolute difference of the fused network from the trained one relative to
the largest output, and ONNX Runtime latency relative to the trained form, interleaved in one
process (median of per-round ratios, one thread). All parameters and statistics are random: fresh
BatchNorms would be fused into nothing. Needs the `timm` extra.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from _timing import interleaved, median_ratio
from torch import nn

from edgec.export.capture import from_torch
from edgec.export.files import dump_json
from edgec.export.rewrite import numerics
from edgec.export.rewrite.engine import run_stages
from edgec.export.rewrite.stats import graph_stats
from edgec.models.random_init import randomize
from edgec.models.timm_bridge import import_timm
from edgec.profiles.macs import count_graph_macs

NETWORKS = (
    "mobilenetv4_conv_small", "repvit_m0_9", "fastvit_t8", "mobileone_s0", "lowformer_b0",
    "poolformerv2_s12", "rexnet_100", "tiny_vit_5m_224",
)  # fmt: skip
timm = import_timm()
COLUMNS = ("model", "form", "captured", "nodes", "mmacs", "params", "relative_diff", "ratio_1t")


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """A row for the trained form and one for the fused form."""
    trained = timm.create_model(name).eval()
    randomize(trained, seed=0)
    damp(trained)
    fused = timm.utils.reparameterize_model(copy.deepcopy(trained), inplace=True)
    shape = timm.data.resolve_data_config({}, model=trained)["input_size"]
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want, got = trained(image), fused(image)
    scale = float(want.abs().max())
    rows, graphs = [], {}
    for form, network in (("as trained", trained), ("fused", fused)):
        model = from_torch(network, tuple(shape))
        captured = graph_stats(model).nodes
        run_stages(model, target_opset=20)
        graphs[form] = numerics.serialize(model)
        rows.append(
            {
                "model": name,
                "form": form,
                "captured": captured,
                "nodes": graph_stats(model).nodes,
                "mmacs": count_graph_macs(model).total / 1e6,
                "params": sum(p.numel() for p in network.parameters()),
                "relative_diff": float((want - got).abs().max()) / scale if form == "fused" else 0,
            }
        )
    samples = interleaved(graphs, {"input": np.asarray(image)}, threads=1, rounds=rounds)
    for row in rows:
        row["ratio_1t"] = median_ratio(samples[row["form"]], samples["as trained"])
    return rows


@torch.no_grad()
def damp(network: nn.Module) -> None:
    """Smaller BatchNorm scales: sums of many random branches would leave float32's good range."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight is not None:
            module.weight.mul_(0.5)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description="Trained and fused form of timm networks.")
    parser.add_argument("--models", nargs="*", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path, default=Path("reparameterize.json"))
    options = parser.parse_args(argv)
    environment = {
        "timm": timm.__version__,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "machine": platform.machine(),
    }
    records: list[dict[str, Any]] = []
    if options.json.is_file():
        records = json.loads(options.json.read_text("utf-8"))["records"]
    print("\t".join(COLUMNS))
    for name in options.models:
        rows = measure(name, options.rounds)
        records = [r for r in records if r["model"] != name] + rows
        text = dump_json({"environment": environment, "records": records})
        options.json.write_text(text, "utf-8")
        for row in rows:
            print("\t".join(str(row[column]) for column in COLUMNS), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
