"""Which targets a network fits: verdicts from facts, and from the graph itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edgec
from edgec.export.fit import Fit, cached_fit, expected_fit, measured_fit
from edgec.models import get_spec
from edgec.targets import get_target, list_targets
from edgec.targets.schema import Fact, Memory, Target

# torch.onnx warns about its own use of torch.utils._pytree
pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec:FutureWarning")

NAME = "edgenext_cifar10"
ALL = [get_target(name) for name in list_targets()]


def test_verdicts_on_memory() -> None:
    plain = Fit("t", "int8", 100, 50, 200, "data sheet")
    assert (plain.needed_bytes, plain.memory) == (150, "fits")
    assert replace(plain, ram_bytes=150).memory == "fits"
    assert replace(plain, ram_bytes=149).memory == "too large"
    assert replace(plain, ram_bytes=None).memory == "unknown"
    assert replace(plain, activation_bytes=None).memory == "weights fit"
    assert replace(plain, activation_bytes=None, ram_bytes=99).memory == "too large"


def test_verdicts_on_the_memories_of_a_microcontroller() -> None:
    plain = Fit("t", "int8", 100, 50, 60, "sheet", flash_bytes=100, weights_apart=True)
    assert (plain.needed_bytes, plain.memory) == (50, "fits")
    assert replace(plain, ram_bytes=49).memory == "too large"
    assert replace(plain, flash_bytes=99).memory == "too large"
    assert replace(plain, activation_bytes=None).memory == "weights fit"
    assert replace(plain, activation_bytes=None, flash_bytes=99).memory == "too large"
    # the flash of some boards is a chip beside the microcontroller
    assert replace(plain, flash_bytes=None).memory == "activations fit"
    assert replace(plain, flash_bytes=None, ram_bytes=49).memory == "too large"
    assert replace(plain, flash_bytes=None, activation_bytes=None).memory == "unknown"


def test_facts_alone_give_a_first_answer() -> None:
    spec = get_spec("emov2_5m")
    found = {(f.target, f.precision): f for f in expected_fit(spec, ALL)}
    assert set(found) == {(t.name, p) for t in ALL for p in t.precisions}
    half = found["jetson-orin-nano-jp6.2", "fp16"]
    assert half.weights_bytes == 2 * spec.params
    assert (half.memory, half.operators, half.measured) == ("weights fit", "not checked", False)
    assert found["generic-x86-64", "fp32"].memory == "unknown"
    # 5 M weights in one byte each, and 2 MB of flash
    chip = found["stm32h743", "int8"]
    assert (chip.ram_bytes, chip.flash_bytes, chip.memory) == (512 << 10, 2 << 20, "too large")
    assert "RM0433" in f"{chip.ram_source} {chip.flash_source}"
    tiny = {f.target: f.memory for f in expected_fit(get_spec(NAME), ALL) if f.precision == "int8"}
    assert (tiny["stm32h743"], tiny["esp32-s3"]) == ("weights fit", "unknown")


def test_showing_facts_loads_neither_torch_nor_onnx(root: Path) -> None:
    code = (
        "import sys; from edgec.export.cli import main\n"
        "try: main(['models', 'show', 'emov2_5m'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'onnx', 'onnx_ir', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(root / ".src"), "PATH": ""},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not checked" in done.stdout


def test_the_text_names_sources_hashes_and_places(main: Any) -> None:
    code, out, _ = main("models", "show", "emov2_cifar10")
    assert code == 0
    checkpoint = get_spec("emov2_cifar10").checkpoints[0]
    assert f"shipped, sha256 {checkpoint.sha256}" in out
    assert re.search(r"stage3 +stride 4, 64 channels", out)
    assert "unknown" in out
    code, out, _ = main("models", "show", "edgenext_small", "--target", "jetson")
    assert "not downloaded, its publisher states no hash" in out
    assert "jetson-orin-nano-jp6.2  fp16" in out
    assert "raspberry" not in out


def test_a_downloaded_checkpoint_is_found(main: Any, monkeypatch: Any, tmp_path: Path) -> None:
    from edgec.models.download import cache_folder

    monkeypatch.setenv("EDGEC_CACHE_DIR", str(tmp_path / "cache"))
    from edgec.models import download

    url = get_spec("edgenext_small").checkpoints[0].url
    file = cache_folder() / download._file_name(url)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    assert download.cached(url) is None, "a file without a record is a broken download"
    download._write_record(file, {"url": url, "sha256": "ab" * 32, "bytes": 7})
    code, out, _ = main("models", "show", "edgenext_small", "--json")
    assert code == 0
    first, second = json.loads(out)["model"]["checkpoints"]
    assert first["location"] == {"status": "cached", "path": str(file), "sha256": "ab" * 32}
    assert second["location"]["status"] == "not downloaded"


SAMPLE = [
    get_target(name)
    for name in ("jetson-orin-nano-jp6.2", "raspberry-pi-5", "generic-x86-64", "stm32h743")
]


@pytest.fixture(scope="module")
def fits() -> dict[tuple[str, str], Fit]:
    """Measured for some targets, and for two with little memory."""
    assert cached_fit(get_spec(NAME), SAMPLE) is None
    small = replace(
        get_target("raspberry-pi-5"),
        name="small",
        facts={"ram_bytes": Fact(900_000, "made up for this test")},
    )
    chip = get_target("stm32h743")
    memories = (Memory("ram", "ram", 50_000, "made up"), Memory("rom", "flash", 700_000, "made up"))
    tight = replace(chip, name="tight", memory=memories)
    parts = [Memory(*made, "made up") for made in (("a", "ram", 36_000), ("b", "ram", 20_000))]
    split = replace(chip, name="split", memory=(*parts, memories[1]))
    found = measured_fit(get_spec(NAME), [*SAMPLE, small, tight, split])
    return {(f.target, f.precision): f for f in found}


def test_the_graph_gives_the_full_answer(fits: dict[tuple[str, str], Fit], main: Any) -> None:
    check(fits, SAMPLE)
    parameters = 4 * get_spec(NAME).params
    full, half, small = (fits["jetson-orin-nano-jp6.2", p] for p in ("fp32", "fp16", "int8"))
    assert full.weights_bytes == pytest.approx(parameters, rel=0.1)
    assert half.weights_bytes < 0.65 * full.weights_bytes
    assert small.weights_bytes < 0.45 * full.weights_bytes
    assert full.activation_bytes == 4 * (small.activation_bytes or 0)
    # 900 kB hold the int8 network, not the others
    assert [fits["small", p].memory for p in ("fp32", "int8")] == ["too large", "fits"]
    assert cached_fit(get_spec(NAME), SAMPLE) is not None
    options = [word for target in SAMPLE for word in ("-t", target.name)]
    code, out, _ = main("models", "show", NAME, *options)
    assert code == 0
    assert "not checked" not in out, "what was measured once is remembered"
    assert re.search(r"stm32h743 +int8 .*fits, [0-9.]+ % of 512.0 KiB RAM, [0-9.]+ % of 2.00 ", out)
    code, out, _ = main("models", "show", NAME, *options, "--json")
    rows = json.loads(out)["fit"]
    assert {r["operators"] for r in rows} == {"pass"}
    # 2.1 MiB of float32 are more than the microcontroller's flash
    assert {r["memory"] for r in rows} == {"fits", "unknown", "too large"}


def test_memories_that_only_together_hold_the_arena(fits: dict[tuple[str, str], Fit]) -> None:
    split = fits["split", "int8"]
    assert (split.memory, split.ram_bytes) == ("fits", 56_000)
    assert split.activation_bytes is not None
    assert 36_000 < split.activation_bytes <= 56_000


@pytest.mark.slow
def test_a_microcontroller_is_judged_by_the_planned_arena(
    fits: dict[tuple[str, str], Fit], tmp_path: Path
) -> None:
    roomy, tight = fits["stm32h743", "int8"], fits["tight", "int8"]
    assert (roomy.memory, tight.memory) == ("fits", "fits")
    assert roomy.activation_bytes == tight.activation_bytes
    assert tight.activation_bytes is not None
    assert tight.activation_bytes < 50_000
    # in float it fits neither into the one memory nor into the other
    assert fits["tight", "fp32"].memory == "too large"
    made = edgec.compile(
        NAME, target="stm32h743", calib="random", weights="random", out=tmp_path / "b"
    )
    (artifact,) = (a for a in made.manifest.artifacts if a.format == "c")
    assert artifact.checks["arena_bytes"] == roomy.activation_bytes
    assert artifact.bytes == pytest.approx(roomy.weights_bytes, rel=0.02)


@pytest.mark.slow
def test_all_targets_take_a_network_of_this_size() -> None:
    check({(f.target, f.precision): f for f in measured_fit(get_spec(NAME), ALL)}, ALL)


def check(fits: dict[tuple[str, str], Fit], targets: list[Target]) -> None:
    assert set(fits) >= {(t.name, p) for t in targets for p in t.precisions}
    for target in targets:
        if target.memory:
            expected = "fits" if target.largest("flash") else "activations fit"
        else:
            expected = "unknown" if target.fact("ram_bytes") is None else "fits"
        for precision in target.precisions:
            fit = fits[target.name, precision]
            assert fit.measured
            assert fit.operators == "pass", (fit.target, fit.precision, fit.codes)
            assert fit.activation_bytes is not None
            # some microcontrollers have too little for it in float32
            also = {"too large"} if precision == "fp32" and target.memory else set()
            assert fit.memory in {expected, *also}, fit


def test_an_operator_that_the_runtime_lacks_is_seen(fits: dict[tuple[str, str], Fit]) -> None:
    from edgec.export.fit import _fit, _Graphs
    from edgec.export.progress import Reporter
    from edgec.export.source import capture

    assert fits
    from edgec.export.options import ExportOptions

    captured = capture(
        NAME, ExportOptions(weights="random"), needs_accuracy=False, reporter=Reporter(quiet=True)
    )
    graphs = _Graphs(captured.graph, get_target("jetson").runtime, Reporter(quiet=True))
    # the graph of a new opset on an old TensorRT
    found = _fit(get_target("jetson-nano"), "fp32", graphs)
    assert found.operators == "refused"
    assert found.errors > 0
    assert found.codes
