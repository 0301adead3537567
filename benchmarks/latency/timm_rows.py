"""Rows of timm's inference benchmarks as a table for ``EDGEC_LATENCY_ROWS``.

    python timm_rows.py benchmark-infer-fp32-nchw-pt240-cpu-i7_12700h-dynamo.csv \\
        "Intel i7-12700H" "PyTorch 2.4.0 torch.compile (dynamo)" > rows.csv

The file is one of ``results/`` of github.com/huggingface/pytorch-image-models (Apache-2.0).
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

COLUMNS = (
    *("device", "soc_core", "clock", "runtime", "precision", "threads", "model", "input", "batch"),
    *("latency_ms", "latency_min_ms", "peak_mem", "peak_mem_unit", "params_M", "macs_M"),
    *("energy_uJ", "compute_unit", "npu_layers", "gpu_layers", "cpu_layers", "source", "year"),
    "notes",
)


def main() -> None:
    """Print the rows of one image at a time."""
    path, device, runtime = sys.argv[1:]
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["infer_batch_size"] == "1"]
    writer = csv.DictWriter(sys.stdout, COLUMNS, restval="")
    writer.writeheader()
    for row in rows:
        size = row["infer_img_size"]
        writer.writerow(
            {
                "device": device,
                "soc_core": "x86-64",
                "runtime": runtime,
                "precision": "fp32",
                "threads": "default",
                "model": row["model"],
                "input": f"{size}x{size}x3",
                "batch": 1,
                "latency_ms": row["infer_step_time"],
                "params_M": row["param_count"],
                "macs_M": 1000 * float(row["infer_gmacs"]) if row["infer_gmacs"] else "",
                "compute_unit": "CPU",
                "source": f"huggingface/pytorch-image-models results/{Path(path).name}",
            }
        )


if __name__ == "__main__":
    main()
