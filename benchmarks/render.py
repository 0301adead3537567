"""Writes docs/benchmarks.md from the JSON files that the benchmark scripts left in results/.

    python benchmarks/render.py

Every figure in the document comes from such a file, which the script of the same name wrote.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "benchmarks.md"

SECTIONS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "graph": (
        "Graph rewriting",
        "Nodes, layout operators and ONNX Runtime latency beside other simplifiers. All parameters "
        "are random (zero biases and unit scales let simplifiers remove what trained weights "
        "need). ratio 1t is latency over that of the raw export, one thread, spinning off: the "
        "median of per-round ratios in a set of fresh sessions, over the sets the geometric mean, "
        "with its relative standard error; two sessions of one graph differ by several percent.",
        ("model", "tool", "nodes", "transposes", "reshapes", "gathers", "slices", "max_rank",
         "shape_arithmetic", "macs", "file_bytes", "max_abs_diff", "seconds_cpu", "ratio_1t",
         "ratio_error"),
    ),
    "zoo": (
        "Parity of every registered network",
        "Each network exported by `edgec export` in a process of its own for three TensorRT "
        "generations (opset 20, 17, 13). capture diff is the largest absolute difference between "
        "PyTorch and the captured graph in ONNX Runtime, rewrite diff that between the captured "
        "graph and the artifact, with its signal-to-noise ratio. The first row of a network starts "
        "from nothing, the others from the cached capture. Weights are random where no checkpoint "
        "ships.",
        ("model", "opset", "params", "macs", "nodes_before", "nodes", "shape_arithmetic",
         "capture_diff", "rewrite_diff", "sqnr_db", "cpu_seconds", "peak_gib", "error"),
    ),
    "reparameterize": (
        "Re-parameterization of timm networks",
        "The form a network was trained in beside the form with its branches fused, both captured "
        "and rewritten; latency is the median of per-round ratios, one thread.",
        ("model", "form", "captured", "nodes", "mmacs", "params", "relative_diff", "ratio_1t"),
    ),
    "ptq": (
        "Post-training quantization",
        "The networks that ship with edgec, trained on CIFAR-10 (5,000 images that they were not "
        "trained on), EfficientNet-Lite0 with its published weights (500 ImageNet images in two "
        "halves, each scored with ranges calibrated on the other one), and two networks of PP-OCR "
        "(rendered lines; calibration lines are not scored). `±` is the standard error of the drop "
        "(McNemar), agreement the share of samples or time steps with the float network's class, "
        "calibration the number of samples. Convolutions are counted after ONNX Runtime's "
        "optimization, latency is the ratio to float32 in it, seconds are CPU time. Schemes for "
        "other processors and fewer bits run as written, without latency. `tuned-100` is recipe "
        "`tuned` with 100 steps, `tuned-60` with 60. The rows come from "
        "several runs: compare drops where the number of samples is the same. Lines are drawn with "
        "the fonts of the machine: rows of `ppocr_rec` with a number of fonts and rows without are "
        "of two sets of lines. `tuned-100` of `ppocr_rec` was trained on an objective that took "
        "probabilities for logits, which has been corrected since.",
        ("model", "name", "metric", "drop", "standard_error", "agreement", "latency_ratio",
         "megabytes", "integer_convs", "convs", "seconds", "calibration", "samples"),
    ),
    "ptq_ablation": (
        "Where the accuracy of int8 goes",
        "Networks that fall short of float by more than wished, with one part of the quantizer "
        "left out at a time: all run as written, with exact integer products. Half a step of noise "
        "on the input (half a grey level) shows how many samples the float network itself cannot "
        "decide. Columns as above.",
        ("model", "name", "metric", "drop", "standard_error", "agreement", "calibration",
         "samples"),
    ),
    "ptq_seconds": (
        "Time to quantize",
        "CPU seconds of the steps of a recipe, capture and rewriting left out, on random "
        "parameters and noise: the time depends on the graph and on the number of samples.",
        ("model", "parameters_m", "scheme", "recipe", "samples", "transforms", "calibration",
         "search_and_rest", "seconds"),
    ),
    "tflite_reader": (
        "TFLite files read",
        "int8 files of MLPerf Tiny and a small ViT on random inputs, against LiteRT's reference "
        "kernels. differing: integers of the numpy reference that are not LiteRT's, of all that "
        "the operators compute. operator steps: the largest difference of one operator of the "
        "Q/DQ graph in ONNX Runtime, given LiteRT's own inputs. The further columns of steps are "
        "the largest difference of an output from end to end, for LiteRT's other kernels, "
        "tflite-runtime 2.14 and the graph. macs left: after removing dead and constant channels.",
        ("file", "operators", "read_ms", "graph_s", "nodes", "transposes", "reference_differing",
         "compared", "graph_operator_steps", "builtin_steps", "xnnpack_steps",
         "tflite_runtime_steps", "graph_steps", "macs", "macs_left", "removal_differing"),
    ),
    "tflite_int16": (
        "int16x8 files read",
        "Networks trained on CIFAR-10 (ai-edge-quantizer: with random parameters) on images that "
        "they were not trained on, against LiteRT's reference kernels. reference differing: of all "
        "integers that the operators compute, those of the numpy reference. written again "
        "differing: outputs of the file that is written from the one that was read. graph steps: "
        "the Q/DQ graph in ONNX Runtime from end to end, operator steps on LiteRT's own inputs, in "
        "steps of int16; operators above 1 are those whose kernel in LiteRT is an approximation.",
        ("model", "variant", "operators", "bytes", "round_trip_same", "reference_differing",
         "compared", "floats_differing", "no_reference", "written_again_differing",
         "graph_steps", "operator_steps", "operators_above_1"),
    ),
    "tflite_fuzz": (
        "Changed TFLite files",
        "Every file changed thousands of times, mostly where its structure is. Each case is "
        "decoded, and what still decodes is translated (of large files one in a hundred). Codes "
        "count the clean errors.",
        ("file", "cases", "outcomes", "crashes", "hangs", "memory", "slowest_seconds", "peak_mib"),
    ),
    "calibration_size": (
        "How many calibration images are enough",
        "int8 by the default recipe from ever more images; drop in points of top-1, mean and "
        "spread over three draws; the peak is that of the calibration's memory.",
        (),
    ),
    "memory": (
        "Memory planning",
        "Offsets for buffers with known life times: the published challenging instances of "
        "MiniMalloc, graphs of real networks, cuts of a full rectangle; the greedy planner of TFLM "
        "beside it. A gap of 0 that is proved cannot be improved.",
        (),
    ),
    "tflite": (
        "TFLite files",
        "Networks with random weights written in each precision; differences are relative to the "
        "largest output of the ONNX master; latency in LiteRT with XNNPACK, interleaved. cpu "
        "seconds and peak mib: from the graph to the file; route: from the PyTorch module to it. "
        "Rows of litert-torch (0.10.0, with ai-edge-quantizer 0.10.0) are of the same networks "
        "and parameters, each timed in the same rounds as a float32 file of ours.",
        (),
    ),
    "tflite_layout": (
        "Transposes of TFLite files",
        "Registered networks as float32 files. between spatial: transposes with nothing but "
        "element-wise operators between two operators that work on images. beside tokens: further "
        "ones there whose element-wise neighbours are read by matrix products as well.",
        ("model", "operators", "total", "between_spatial", "beside_tokens"),
    ),
    "tflite_zoo": (
        "TFLite files of every network",
        "Registered networks with random parameters, int8 calibrated on noise: whether each "
        "precision loads and computes the network, with XNNPACK and with LiteRT's own kernels. "
        "Differences of float32 files are to PyTorch's float32, relative to the largest output; "
        "beside them PyTorch's own float32 against its float64, which shows how far a network "
        "amplifies rounding. The others are in dB of signal to "
        "noise. partitions: parts that XNNPACK takes over. reference "
        "differing: integers of the all-integer file that single operators of the numpy reference "
        "compute differently from LiteRT's plain kernels, of those compared; LiteRT's plain SUM "
        "forgets that input and output have different scales, its optimised one is how far away "
        "as steps to optimised says.",
        ("model", "parameters_m", "torch_float32_rounding", "fp32_difference_xnnpack",
         "fp32_difference_builtin", "fp16_sqnr_xnnpack", "fp16_sqnr_builtin", "dyn8_sqnr_xnnpack",
         "dyn8_sqnr_builtin", "int8_sqnr_xnnpack", "int8_sqnr_builtin", "int8_partitions",
         "full_sqnr_xnnpack", "full_sqnr_builtin", "full_partitions", "reference_compared",
         "reference_differing", "steps_to_optimised"),
    ),
    "tflite_arm64": (
        "Instructions on Arm cores",
        "Instructions of one inference by the Arm builds of LiteRT (with XNNPACK) and ONNX Runtime "
        "in QEMU's user mode, one thread: exact counts, no latency. The Cortex-A76 (Raspberry Pi "
        "5) has SDOT, the Cortex-A72 (Raspberry Pi 4) has not. ratio: over float32 of the same "
        "runtime. difference: of the outputs from those of the same file on this machine, "
        "relative to the largest output.",
        ("model", "variant", "million_instructions", "ratio", "difference"),
    ),
    "tflite_accuracy": (
        "TFLite files on CIFAR-10",
        "Top-1 of networks trained on CIFAR-10 on images that they were not trained on, in ONNX "
        "Runtime (float) and in LiteRT with XNNPACK; agreement of the best class with the float "
        "graph, and with the Q/DQ graph that the file was made from. Rows that do not say how many "
        "images are of 1,000.",
        (),
    ),
    "tflite_mixes": (
        "Precision mixes of TFLite files",
        "Time over float32 in LiteRT with XNNPACK, interleaved, median over rounds; `int8 "
        "convolutions` leaves linear layers in float, `int8 linear layers` convolutions, `int8 "
        "where it is faster` the modules whose operators, timed alone, integers slow down. Where "
        "int8 takes more than 0.75 of float32's time: what it spends its operators' time on.",
        (),
    ),
    "trt_proxy": (
        "TensorRT by proxy",
        "Kernels that TensorRT for RTX, which needs no GPU, plans for SM86, a proxy for Orin and "
        "other Ampere GPUs, and for SM120, a proxy for Blackwell (Thor, RTX 50); those that carry "
        "other operators with them, and fused attention. Kernels of both capabilities differ in "
        "their code, not in what they fuse. Random weights, Q/DQ where the scheme puts them. No "
        "engine was run; the device's own TensorRT has other kernels and chooses by timing.",
        ("model", "attentions", "kernels", "fused", "attention_fused", "kernels_sm120",
         "fused_sm120", "attention_fused_sm120"),
    ),
    "trt_placements": (
        "Placements of Q/DQ for TensorRT",
        "Trained networks with each placement: kernels of the same compiler, share of the "
        "multiplications on integers, signal to noise of plain rounding on 32 held-out images.",
        ("model", "placement", "kernels", "fused", "attention", "integer_macs", "sqnr_db",
         "chosen"),
    ),
    "trt_modelopt": (
        "Q/DQ beside NVIDIA ModelOpt",
        "Networks trained on CIFAR-10, quantized by edgec and by NVIDIA ModelOpt from the same "
        "float32 graph, images and range method, rounded to nearest, compiled by the same proxy "
        "with float16 for the rest. products: convolutions and matrix products on integers, and "
        "their share of the multiplications; residual additions with both arms quantized and with "
        "one; signal to noise against float32 on 32 images; top-1 on images that they were not "
        "trained on (its standard error is about 1.2 points; differences of one network are "
        "between the same images). `chosen` is the placement that `auto` keeps. The last columns "
        "name the products that only one of edgec's default and ModelOpt computes on integers.",
        ("model", "tool", "kernels", "fused", "attention", "products", "integer_macs", "both_arms",
         "one_arm", "sqnr_db", "top1", "chosen", "only_edgec", "only_modelopt"),
    ),
    "mcu": (
        "Embedded C",
        "TFLite files compiled to C and run on simulated boards: every output byte compared with "
        "the integer reference, instructions counted exactly (no latency). The arena "
        "holds inputs and outputs; flash is the image without golden data. `tflm` is TensorFlow "
        "Lite Micro of 2026-08-20 with CMSIS-NN, built and counted once in the same way.",
        ("title", "macs", "arena", "lower_bound", "proved", "flash", "stack", "instructions",
         "agreed", "tflm"),
    ),
    "mcu_zoo": (
        "Whole networks as embedded C",
        "Random weights, int8, 224 x 224 (240 for mcuformer_t_c), for an STM32H743: arena in "
        "its AXI SRAM (524,288 bytes), that of mcuformer_t_b in AXI and D2 SRAM; `streamed` "
        "expansions computed row by row for that. RAM, flash and instructions of a simulated "
        "Cortex-M7 (no latency); networks whose constants need flash outside of the chip ran "
        "their self-test on the host.",
        ("model", "macs", "arena", "lower_bound", "streamed", "constants", "flash_outside",
         "self_test", "agreed", "instructions", "ram", "flash"),
    ),
    "mcu_accuracy": (
        "Embedded C on CIFAR-10",
        "The C of networks trained on CIFAR-10, compiled for the host, on images that they were "
        "not trained on; an image differs when any output byte is not the integer reference's.",
        ("network", "images", "top1", "images_that_differ", "arena", "constants", "macs"),
    ),
    "latency": (
        "Predicted latency",
        "Cross-validation of the constants that ship with edgec, on published measurements. Folds "
        "keep networks of one name and boards of one chip together; figures in percent of single "
        "measurements, τ by board.",
        ("set", "test", "n", "within_10", "within_20", "median_error", "kendall_tau",
         "coverage_80"),
    ),
    "latency_anchors": (
        "Latency predicted from anchors, on the machine of these benchmarks",
        "Networks in ONNX Runtime on an x86-64 processor that no constants are of, each "
        "predicted ten times from five others drawn by chance. The product calibrates ncnn's "
        "constants; those of torch.compile are taken where the anchors are PyTorch's. In percent "
        "of the predictions.",
        (),
    ),
}  # fmt: skip

SCRIPTS = {
    "latency": "latency/validate",
    "trt_placements": "trt_proxy",
    "tflite_accuracy": "tflite",
    "tflite_mixes": "tflite",
}
"""Scripts that are not named like their results."""


def render() -> str:
    """The whole document."""
    parts = [
        "# Benchmarks",
        "Generated by `python benchmarks/render.py` from `benchmarks/results/*.json`. Run any "
        "script again to check a figure on your machine. Timings are ratios within one run; the "
        "machine they were taken on is shared and noisy.",
    ]
    for name, (title, text, columns) in SECTIONS.items():
        file = HERE / "results" / f"{name}.json"
        if not file.is_file():
            continue
        data = json.loads(file.read_text("utf-8"))
        records = data.get("records") or data["rows"]
        shown = columns or tuple(dict.fromkeys(key for record in records for key in record))
        facts = data.get("environment") or data["facts"]
        environment = ", ".join(f"{k} {_cell(v)}" for k, v in facts.items())
        parts += [
            f"## {title}",
            f"`benchmarks/{SCRIPTS.get(name, name)}.py` ({environment})",
            text,
            "\n".join(
                [
                    "| " + " | ".join(column.replace("_", " ") for column in shown) + " |",
                    "|" + "---|" * len(shown),
                    *(
                        "| " + " | ".join(_cell(record.get(c)) for c in shown) + " |"
                        for record in records
                    ),
                ]
            ),
        ]
        parts += [f"- {note}" for note in data.get("notes", ())]
    return "\n\n".join(parts) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|")


if __name__ == "__main__":
    DOCUMENT.write_text(render(), "utf-8")
