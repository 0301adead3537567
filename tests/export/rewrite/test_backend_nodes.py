"""The node tests of ONNX's own backend suite go through capture and rewrite unchanged in result.

Small integer and string inputs (axes, shapes, indices) become initializers with the values of the
test, because the stage works on static shapes; the test's remaining inputs are fed, and the outputs
are compared with the expected ones of the suite. What ONNX Runtime itself cannot execute, and what
depends on opsets above 20, is refused with one of our errors; the test counts those, so that none
is skipped silently.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgec.export.capture import from_onnx
from edgec.export.errors import EdgecError
from edgec.export.rewrite import numerics
from edgec.export.rewrite.engine import run_stages


def static(case: Any) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The test's model with its small non-float inputs as initializers, and the other inputs."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    inputs, _ = case.data_sets[0]
    feeds: dict[str, Any] = {}
    for value, array in list(zip(model.graph.input, inputs, strict=False)):
        array = _array(array)
        is_small = isinstance(array, np.ndarray) and array.ndim <= 1 and array.dtype.kind in "iu"
        if is_small and len(model.graph.input) > 1:
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
            model.graph.input.remove(value)
        else:
            feeds[value.name] = array
    return model, feeds


def _array(given: Any) -> Any:
    """A value of the suite as an array; types that numpy lacks come as tensors."""
    if isinstance(given, onnx.TensorProto):
        return onnx.numpy_helper.to_array(given)
    return np.asarray(given) if np.isscalar(given) else given


def outcome(case: Any, folder: Path) -> str:
    """ "equal", "refused EC…" or a description of what went wrong."""
    model, feeds = static(case)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    try:
        master = from_onnx(path)
        run_stages(master, target_opset=20, matrices=True)
    except EdgecError as error:
        if error.code in ("EC140", "EC141", "EC142"):
            return f"WRONG {error}"
        return f"refused {error.code}"
    names = [v.name or "" for v in master.graph.outputs]
    got = numerics.run(numerics.serialize(master), [feeds])
    want = [np.asarray(_array(array)) for array in case.data_sets[0][1]]
    if not numerics.is_deterministic(master):
        return "random"
    for name, a, b in zip(names, want, got, strict=True):
        if a.dtype.kind in "SUO" or not isinstance(b, np.ndarray):
            continue
        tolerance = {"rtol": max(case.rtol, 1e-3), "atol": max(case.atol, 1e-5)}
        if a.shape != b.shape or not np.allclose(
            a.astype(np.float64), b.astype(np.float64), equal_nan=True, **tolerance
        ):
            before = numerics.run(model.SerializeToString(), [feeds])
            if numerics.compare(names, before, got) is not None:
                return f"WRONG {name}"
    return "equal"


def summary(cases: list[Any], folder: Path) -> Counter[str]:
    results: Counter[str] = Counter()
    wrong = []
    for case in cases:
        result = outcome(case, folder)
        results[result.split("\n")[0][:14] if result.startswith("WRONG") else result] += 1
        if result.startswith("WRONG"):
            wrong.append(f"{case.name}: {result}")
    assert not wrong, "\n".join(wrong)
    return results


def test_sample_of_the_backend_suite(backend_cases: list[Any], tmp_path: Path) -> None:
    sample = backend_cases[::11]
    results = summary(sample, tmp_path)
    assert results["equal"] >= 0.55 * len(sample), results


@pytest.mark.slow
def test_whole_backend_suite(backend_cases: list[Any], tmp_path: Path) -> None:
    results = summary(backend_cases, tmp_path)
    print(dict(results))
    assert results["equal"] >= 1000, results
    # refused, and why: only reasons that are documented
    assert set(results) <= {
        "equal",
        "random",
        "refused EC245",  # sequences of unknown length
        "refused EC342",
        "refused EC343",  # ONNX Runtime has no kernel, or does not know the opset
        "refused EC344",  # operators newer than opset 20
        "refused EC345",  # shapes that depend on the data
        "refused EC348",  # inputs or outputs that are no tensors of numbers
        "refused EC742",
        "refused EC744",
        "refused EC745",  # tests of empty tensors
    }
