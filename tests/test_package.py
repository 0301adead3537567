"""The import mapping: five top-level folders that are one package, however it is installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import edgec

FOLDERS = ("export", "models", "profiles", "runtime", "targets")


def test_links_resolve_into_the_checkout(root: Path) -> None:
    for name in FOLDERS:
        link = root / ".src" / "edgec" / name
        assert link.is_symlink(), f"{link} is no link: clone with core.symlinks=true"
        assert link.resolve() == root / name
        assert not Path(link.readlink()).is_absolute()


def test_public_names_are_exactly_these() -> None:
    for name in edgec.__all__:
        assert getattr(edgec, name) is not None
    public = {n for n in vars(edgec) if not n.startswith("_")} - {
        "annotations",
        "Any",
        "Path",
        "TYPE_CHECKING",
        "export",
    }
    assert public <= set(edgec.__all__) | {"runtime", "profiles"}


@pytest.mark.parametrize("code", ["import edgec", "from edgec.export.cli import main"])
def test_importing_loads_nothing_heavy(root: Path, code: str) -> None:
    check = f"{code}; import sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", check],
        env={"PYTHONPATH": str(root / ".src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


HEAVY = ["torch", "onnx", "onnx_ir", "onnxruntime", "numpy", "PIL"]


def test_help_is_quick(root: Path) -> None:
    """Under half a second of CPU time, children of this process only (wall time is noise)."""
    script = (
        "import resource, subprocess, sys;"
        "subprocess.run([sys.executable, '-m', 'edgec', '--help'], stdout=subprocess.DEVNULL,"
        " check=True);"
        "u = resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_utime + u.ru_stime)"
    )
    # the fastest of three: the first one may have to compile bytecode
    seconds = min(
        float(
            subprocess.run(
                [sys.executable, "-c", script],
                env={"PYTHONPATH": str(root / ".src")},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for _ in range(3)
    )
    assert seconds < 0.5


@pytest.mark.slow
def test_wheel_holds_the_whole_package_and_nothing_else(root: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, root],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"edgec"}
    packed = {n.removeprefix("edgec/") for n in names if n.startswith("edgec/")}
    tracked = subprocess.run(
        ["git", "ls-files", *FOLDERS], cwd=root, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    missing = {t for t in tracked if t} - packed
    assert not missing
    assert "py.typed" in packed


@pytest.mark.slow
def test_installed_wheel_and_editable_install_import_the_package(
    root: Path, tmp_path: Path
) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, root],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    for kind, arguments in (
        ("wheel", [str(wheel)]),
        ("editable", ["--no-build-isolation", "-e", str(root)]),
    ):
        place = tmp_path / kind
        # the new environment sees this one's packages, so that nothing is downloaded
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        site = next(place.glob("lib/python*/site-packages"))
        here = subprocess.run(
            [sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        (site / "parent.pth").write_text(here + "\n")
        python = place / "bin" / "python"
        subprocess.run(
            [
                python,
                "-m",
                "pip",
                "install",
                "--no-deps",
                "--no-index",
                "--quiet",
                "--disable-pip-version-check",
                *arguments,
            ],
            check=True,
            cwd=tmp_path,
        )
        where = subprocess.run(
            [
                python,
                "-c",
                "import edgec.export, edgec.targets as t; "
                "print(edgec.export.__file__, len(t.list_targets()))",
            ],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        ).stdout.split()
        expected = root / "export" if kind == "editable" else site
        assert Path(where[0]).resolve().is_relative_to(expected.resolve())
        assert int(where[1]) >= 5
        listed = subprocess.run(
            [place / "bin" / "edgec", "targets", "list"],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        assert "jetson" in listed.stdout


@pytest.mark.slow
def test_mypy_strict_finds_nothing(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_pytest_runs_in_a_bare_clone(root: Path, tmp_path: Path) -> None:
    """A clone that was never installed: pytest's `pythonpath` finds the package by itself."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", root, clone], check=True)
    package = str(clone / ".src" / "edgec" / "__init__.py")
    (clone / "tests" / "test_where.py").write_text(
        f"import edgec\n\n\ndef test_where():\n    assert edgec.__file__ == {package!r}\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/targets",
            "tests/test_where.py",
        ],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
