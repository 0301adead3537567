"""Graphs in ONNX's text format, and the lint on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from edgec.export.lint.base import Finding
from edgec.export.lint.engine import lint
from edgec.targets.registry import get_target
from edgec.targets.schema import Fact, Target

Find = Callable[..., list[Finding]]


def target_for(runtime: str, version: str, opset: int = 20) -> Target:
    """A target like a shipped one, with another runtime version."""
    base = get_target({"tensorrt": "jetson", "onnxruntime": "x86"}.get(runtime, runtime))
    return replace(base, runtime=replace(base.runtime, version=version, opset=opset))


def parse(body: str, *, opset: int = 17, domains: str = "") -> onnx.ModelProto:
    """A model from the text of a graph; more opset imports in `domains`."""
    imports = f'"" : {opset}' + (f", {domains}" if domains else "")
    return onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{imports}]>\n{body}")


@pytest.fixture(scope="session")
def graph() -> Callable[..., onnx.ModelProto]:
    """`parse`."""
    return parse


@pytest.fixture(scope="session")
def find() -> Find:
    """Lint the text of a graph: ``find(body, "10.3", opset=17, runtime="tensorrt")``."""

    def run(
        body: str,
        version: str = "10.3",
        *,
        runtime: str = "tensorrt",
        opset: int = 17,
        domains: str = "",
        cap: int = 20,
        select: tuple[str, ...] = (),
        facts: Mapping[str, int] | None = None,
    ) -> list[Finding]:
        model = ir.from_proto(parse(body, opset=opset, domains=domains))
        target = target_for(runtime, version, cap)
        known = target.facts | {key: Fact(value, "test") for key, value in (facts or {}).items()}
        return list(lint(model, replace(target, facts=known), select=select).findings)

    return run
