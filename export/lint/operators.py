"""Operators and opsets: does the runtime version know them at all?"""

from __future__ import annotations

from collections.abc import Iterator

from edgec.export.lint.base import Context, Hit
from edgec.targets.operators.table import DEFAULT_DOMAINS, select_table, table_versions


def unsupported_operator(context: Context) -> Iterator[Hit]:
    """E101: a standard operator that the runtime does not execute at the graph's opset."""
    for node in context.nodes:
        if node.domain not in DEFAULT_DOMAINS or node.op_type == "Constant":
            continue
        row = context.table.find("", node.op_type)
        version = context.version_of(node)
        if row is not None and row.executes(version):
            continue
        known = row is not None and row.supported
        name = f"{node.op_type} as defined in opset {version}" if known else node.op_type
        newer = _first_table_with(context.table.runtime, node.op_type, version)
        missing = [b for b in row.becomes if b not in context.table.builtins] if row else []
        if missing:
            name += f" (as {', '.join(missing)})"
        fix = "express it by other operators; `edgec export` does that where it knows how"
        if newer is not None:
            fix += f" (listed from {context.runtime.rpartition(' ')[0]} {newer} on)"
        yield Hit(node, f"{context.runtime} does not execute {name}", fix)


def no_c_kernel(context: Context) -> Iterator[Hit]:
    """W108: the target also gets C, and the C kernels lack an operator."""
    if "c" not in context.target.formats:
        return
    table = select_table("edgec-c", table_versions("edgec-c")[-1]).table
    for node in context.nodes:
        row = table.find(node.domain, node.op_type)
        if node.op_type == "Constant" or (row is not None and row.supported):
            continue
        missing = [b for b in row.becomes if b not in table.builtins] if row else []
        name = node.op_type + (f" (as {', '.join(missing)})" if missing else "")
        yield Hit(
            node,
            f"edgec's C kernels have no {name}: no C is written for the network",
            "express it by other operators, or run the .tflite file",
        )


def opset_out_of_range(context: Context) -> Iterator[Hit]:
    """E102: the opset is newer than the runtime reads, or older than it still does."""
    table = context.table
    if context.opset > table.opset:
        yield Hit(
            None,
            f"opset {context.opset} is newer than opset {table.opset}, the last one that "
            f"{context.runtime} reads",
            f"`edgec export` lowers the graph to opset {context.target.runtime.opset}",
        )
    elif 0 < context.opset < table.oldest_opset:
        yield Hit(
            None,
            f"opset {context.opset} is older than opset {table.oldest_opset}, the first one that "
            f"{context.runtime} reads",
            f"export the network at opset {context.target.runtime.opset}",
        )


def custom_operator(context: Context) -> Iterator[Hit]:
    """E105: an operator outside the standard domain that the runtime does not bring."""
    for node in context.nodes:
        if node.domain in DEFAULT_DOMAINS:
            continue
        row = context.table.find(node.domain, node.op_type)
        if row is not None and row.executes(context.version_of(node)):
            continue
        name = f"{node.domain}::{node.op_type}"
        if node.domain == "com.microsoft":
            yield Hit(
                node,
                f"{name} is an operator of ONNX Runtime's own; {context.runtime} has none",
                "start from the graph before ONNX Runtime's optimizer fused it",
            )
        else:
            yield Hit(
                node,
                f"{name} is no ONNX operator; {context.runtime} would need a plugin for it",
                "express it by ONNX operators, or install the plugin on the device",
            )


def _first_table_with(runtime: str, op_type: str, version: int) -> str | None:
    for candidate in table_versions(runtime):
        row = select_table(runtime, candidate).table.find("", op_type)
        if row is not None and row.executes(version):
            return candidate
    return None
