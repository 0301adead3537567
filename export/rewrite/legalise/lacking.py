"""Which operators of its opset a runtime does not execute all the same.

TensorRT 8.5 reads opset 17 and yet has no LayerNormalization; what `decompose` can spell out is
spelled out for it.
"""

from __future__ import annotations

import onnx

from edgec.export.rewrite.legalise.decompose import DECOMPOSITIONS
from edgec.targets.operators.table import select_table
from edgec.targets.schema import Runtime


def operators_lacking(runtime: Runtime) -> frozenset[str]:
    """Names of operators with a decomposition that `runtime` has not at its own opset.

    A runtime without an operator table is taken to execute its whole opset.
    """
    try:
        table = select_table(runtime.name, runtime.version).table
    except KeyError:
        return frozenset()
    lacking = set()
    for name, (since, _) in DECOMPOSITIONS.items():
        if runtime.opset < since:
            continue
        row = table.find("", name)
        version = onnx.defs.get_schema(name, runtime.opset, "").since_version
        if row is None or not row.executes(version):
            lacking.add(name)
    return frozenset(lacking)
