"""The documents: commands run, the CLI reference is what --help says, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/bundle.md",
    "docs/preprocessing.md",
    "docs/quantization.md",
    "docs/tflite.md",
    "docs/memory.md",
    "docs/profiling.md",
    "docs/measuring.md",
    "docs/cli.md",
    "docs/benchmarks.md",
)


def commands(text: str) -> list[str]:
    """Lines ``$ …`` of console blocks, continued lines joined."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        joined = block.replace("\\\n", " ")
        found += re.findall(r"^\$ (.+)$", joined, re.MULTILINE)
    return found


def test_links_between_documents_lead_somewhere(root: Path) -> None:
    for name in DOCUMENTS:
        text = (root / name).read_text("utf-8")
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (root / name).parent.joinpath(target).exists(), f"{name}: {target}"


def test_the_cli_reference_is_generated(root: Path) -> None:
    import sys

    sys.path.insert(0, str(root / "docs"))
    try:
        from make_cli import reference
    finally:
        sys.path.pop(0)
    assert (root / "docs/cli.md").read_text("utf-8") == reference(), "run python docs/make_cli.py"


def test_every_verb_is_in_the_readme(root: Path) -> None:
    text = (root / "README.md").read_text("utf-8")
    for verb in (
        "models",
        "targets",
        "check",
        "export",
        "run",
        "eval",
        "build",
        "bench",
        "diff",
        "report",
        "profile",
        "plan",
        "explain",
        "doctor",
        "cache",
    ):
        assert f"edgec {verb}" in text or f"`{verb}`" in text, verb


def test_ci_runs_the_test_command_of_the_readme(root: Path) -> None:
    readme = commands((root / "README.md").read_text("utf-8"))
    (test_command,) = [c for c in readme if c.endswith("pytest")]
    install, _, run = test_command.partition(" && ")
    script = (root / ".ci/run").read_text("utf-8")
    assert install.removeprefix("pip install ") in script
    assert f"\n{run}\n" in script


def simulator_installed() -> bool:
    return all(shutil.which(tool) for tool in ("arm-none-eabi-gcc", "qemu-system-arm"))


@pytest.mark.slow
def test_every_command_of_the_readme_runs(
    root: Path,
    cli,
    tiny_onnx: Path,
    siamese_onnx: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the order of the document, with files of the names it uses."""
    monkeypatch.setenv("EDGEC_STORE", str(tmp_path / "results.sqlite3"))
    rng = np.random.default_rng(0)
    for folder in ("photos", "val/tench", "val/goldfish"):
        (tmp_path / folder).mkdir(parents=True)
        for index in range(20):
            pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{index}.jpg")
    shutil.copy(tmp_path / "photos" / "0.jpg", tmp_path / "cat.jpg")
    shutil.copy(tiny_onnx, tmp_path / "mynet.onnx")
    shutil.copy(siamese_onnx, tmp_path)
    for name in ("pairs.npz", "more_pairs.npz"):
        # of different colours: noise alone has no distance worth 20 dB
        colours = rng.uniform(-3, 3, (2, 128, 3, 1, 1))
        pairs = rng.standard_normal((2, 128, 3, 16, 16)) + colours
        left, right = pairs.astype(np.float32)
        np.savez(tmp_path / name, left=left, right=right)
    (tmp_path / "preprocess.json").write_text('{"resize": "stretch"}')
    ran = 0
    for command in commands((root / "README.md").read_text("utf-8")):
        for part in command.split(" && "):
            words = shlex.split(part)
            if words[0] != "edgec":
                assert words[0] in ("pip", "pytest"), command
                continue
            if any(word.startswith("qemu:") for word in words) and not simulator_installed():
                continue
            done = cli(*words[1:], cwd=tmp_path, timeout=300)
            assert done.returncode == 0, f"{part}\n{done.stderr}"
            ran += 1
    assert ran >= 6
