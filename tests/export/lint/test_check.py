"""``edgec check``: what it takes, what it prints, how it exits; and the lint inside the export."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import edgec
from edgec.export.check import check
from edgec.export.errors import InputError, UnsupportedError, UsageError
from edgec.targets.registry import get_target

CUBIC = (
    "g (float[1,3,8,8] x) => (float[1,3,16,16] y) <float[4] s = {1,1,2,2}>"
    '{ r = Resize<mode = "cubic">(x, , s)  y = Relu(r) }'
)
NORM = "g (float16[1,4] x) => (float16[1,4] y) { y = Softmax(x) }"
CLEAN = "g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }"


@pytest.fixture
def broken(graph, tmp_path: Path) -> Path:
    """A file that TensorRT 10.3 refuses: one E107."""
    path = tmp_path / "broken.onnx"
    onnx.save(graph(CUBIC), path)
    return path


def test_text_and_exit_code(main, broken: Path, graph) -> None:
    code, out, err = main("check", broken, "-t", "jetson")
    assert code == 3
    assert "E107 error: Resize: mode is cubic" in out
    assert "where: r (Resize)" in out
    assert "table tensorrt 10.1: the newest table not newer than 10.3" in out
    assert out.endswith("1 graph checked: 1 error, 0 warnings, 0 hints\n")
    assert "Traceback" not in err
    onnx.save(graph(CLEAN), "clean.onnx")
    code, out, _ = main("check", "clean.onnx", "-t", "jetson")
    assert (code, out.splitlines()[-1]) == (0, "1 graph checked: 0 errors, 0 warnings, 0 hints")


def test_warnings_do_not_fail(main, graph, tmp_path: Path) -> None:
    onnx.save(graph(NORM), tmp_path / "half.onnx")
    code, out, _ = main("check", tmp_path / "half.onnx", "-t", "jetson")
    assert code == 0
    assert "W302 warning" in out


def test_select_and_ignore(main, broken: Path) -> None:
    assert main("check", broken, "-t", "jetson", "--ignore", "e107")[0] == 0
    assert main("check", broken, "-t", "jetson", "--ignore", "E1,W")[0] == 0
    assert main("check", broken, "-t", "jetson", "--select", "W,E2")[0] == 0
    assert main("check", broken, "-t", "jetson", "--select", "E107")[0] == 3
    code, _, err = main("check", broken, "-t", "jetson", "--select", "E9")
    assert code == 2
    assert "E9" in err
    assert main("check", broken, "-t", "jetson", "--format", "xml")[0] == 2


@pytest.mark.parametrize("flags", [("--json",), ("--format", "json")])
def test_json(main, broken: Path, flags: tuple[str, ...]) -> None:
    code, out, _ = main("check", broken, "-t", "jetson", *flags)
    assert code == 3
    data = json.loads(out)
    assert data["schema"] == "edgec.check/1"
    (report,) = data["graphs"].values()
    assert (report["errors"], report["warnings"]) == (1, 0)
    (found,) = report["findings"]
    assert found["code"] == "E107"
    assert found["severity"] == "error"
    assert (found["node"], found["op_type"]) == ("r", "Resize")


def test_sarif(main, broken: Path) -> None:
    code, out, _ = main("check", broken, "-t", "jetson", "--format", "sarif")
    assert code == 3
    log = json.loads(out)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert (driver["name"], driver["version"]) == ("edgec", edgec.__version__)
    (result,) = run["results"]
    assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "E107"
    assert result["level"] == "error"
    (location,) = result["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"].endswith("broken.onnx")
    assert location["logicalLocations"] == [{"name": "r", "kind": "element"}]


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is no network")
    with pytest.raises(InputError):
        check(str(tmp_path / "text.onnx"), "jetson")
    with pytest.raises(InputError, match="not an edgec bundle"):
        check(str(tmp_path), "jetson")
    with pytest.raises(UsageError, match="unknown target"):
        check(str(tmp_path / "text.onnx"), "jetsn")


def test_a_runtime_without_table_is_refused(tiny_onnx: Path, tmp_path: Path) -> None:
    from edgec.targets.registry import target_toml

    text = target_toml("x86").replace('name = "onnxruntime"', 'name = "ncnn"')
    (tmp_path / "mine.toml").write_text(text.replace('aliases = ["x86", "cpu"]', ""))
    with pytest.raises(UnsupportedError, match="no operator table") as caught:
        check(str(tiny_onnx), str(tmp_path / "mine.toml"))
    assert caught.value.code == "EC388"


def test_rules_are_explained(main) -> None:
    code, out, _ = main("explain", "w209")
    assert code == 0
    assert out.startswith("W209: Q/DQ between")
    listed = main("explain")[1]
    assert "E101" in listed
    assert "EC387" in listed


# A network captured and rewritten, and bundles.


def test_a_factory_is_captured_and_rewritten_first(main, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm(6), nn.GELU())\n"
    )
    found = main("check", "net.py:make", "-t", "jetson-nano", "--input-size", "8", "-q")
    assert found[0] == 0, found
    assert "0 errors" in found[1]


@pytest.mark.parametrize(
    ("target", "precision"),
    [("jetson", "int8"), ("jetson-nano", "fp16"), ("x86", "int8"), ("rpi4", "int8")],
)
def test_the_exports_of_the_tiny_network_are_clean(
    target: str,
    precision: str,
    tiny_onnx: Path,
    image_folder: Path,
    preprocess_json: Path,
    tmp_path: Path,
) -> None:
    options = {"calib": str(image_folder)} if precision == "int8" else {}
    bundle = edgec.compile(
        str(tiny_onnx),
        target=target,
        precision=precision,
        preprocess=str(preprocess_json),
        out=str(tmp_path / "out"),
        **options,
    )
    built = [a for a in bundle.manifest.artifacts if a.format == "onnx"]
    assert len(built) >= 2
    for artifact in built:
        assert artifact.checks["lint"] == {"errors": 0, "warnings": 0}
    reports = check(str(bundle.path), target)
    assert list(reports) == [a.path for a in built]
    assert not any(report.findings for report in reports.values())


def test_a_bundle_for_another_runtime_is_refused(
    main, tiny_onnx: Path, image_folder: Path, preprocess_json: Path, tmp_path: Path
) -> None:
    """What ONNX Runtime wants of int8 (unsigned, zero points, int32 biases) TensorRT refuses."""
    edgec.compile(
        str(tiny_onnx),
        target="x86",
        precision="int8",
        calib=str(image_folder),
        preprocess=str(preprocess_json),
        out=str(tmp_path / "out"),
    )
    code, out, _ = main("check", tmp_path / "out", "-t", "jetson-nano", "--json")
    assert code == 3
    graphs = json.loads(out)["graphs"]
    fp32, int8 = ({f["code"] for f in graph["findings"]} for graph in graphs.values())
    assert fp32 == {"E102"}  # opset 20, and the Nano reads 13
    assert {"E102", "E201", "E202", "E203"} <= int8


def test_an_export_that_the_target_would_refuse_stops(broken: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="would refuse the graph: 1 error") as caught:
        edgec.compile(str(broken), target="jetson", precision="fp32", out=str(tmp_path / "out"))
    assert caught.value.code == "EC387"
    assert "E107" in str(caught.value.why)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["emov2_1m", "edgenext_xx_small"])
@pytest.mark.parametrize("target", ["jetson", "jetson-nano", "x86", "rpi4", "rpi5"])
def test_networks_of_the_zoo_are_clean(
    name: str, target: str, image_folder: Path, tmp_path: Path
) -> None:
    precisions = get_target(target).precisions
    options = {"calib": str(image_folder), "calib_limit": 4} if "int8" in precisions else {}
    bundle = edgec.compile(
        name,
        target=target,
        precision=precisions[-1],
        weights="random",
        force=True,  # an untrained network has no accuracy to keep
        out=str(tmp_path / "out"),
        **options,
    )
    built = [a for a in bundle.manifest.artifacts if a.format == "onnx"]
    assert [a.precision for a in built] == list(precisions)
    assert all(a.checks["lint"] == {"errors": 0, "warnings": 0} for a in built)
