"""Target files of the user's own: written, found by name, listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.export.errors import UsageError
from edgec.targets import get_target
from edgec.targets.registry import list_user_targets
from edgec.targets.template import write_template


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEC_TARGETS_DIR", str(tmp_path / "own"))
    return tmp_path / "own"


def test_the_template_is_a_valid_target(tmp_path: Path) -> None:
    path = write_template(tmp_path / "my-board")
    target = get_target(str(path))
    assert (target.name, target.kind, target.facts) == ("my-board", "mcu", {})
    # what is commented out is valid as well
    text = path.read_text().split("[facts]")[1]
    lines = [line.removeprefix("# ") for line in text.splitlines() if "=" in line or "[[" in line]
    path.write_text(path.read_text().split("[facts]")[0] + "[facts]\n" + "\n".join(lines))
    filled = get_target(str(path))
    assert filled.fact("cpu_mhz") == 216
    assert filled.memory[0].base == 0x20000000


def test_a_shipped_target_can_be_the_start(tmp_path: Path) -> None:
    mine = get_target(str(write_template(tmp_path / "mine.toml", like="stm32h743")))
    assert mine.memory == get_target("stm32h743").memory
    assert mine.aliases == ()


def test_files_in_the_folder_are_found_by_name(own_folder: Path) -> None:
    assert list_user_targets() == []
    write_template(own_folder / "bench-board")
    assert list_user_targets() == ["bench-board"]
    assert get_target("bench-board").title == "bench-board"
    with pytest.raises(UsageError) as caught:
        get_target("bench-bord")
    assert "bench-board" in (caught.value.fix or "")


@pytest.mark.parametrize("name", ["stm32h743", "Two Words", ".hidden"])
def test_names_that_do_not_work_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no target file written"):
        write_template(tmp_path / f"{name}.toml")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = write_template(tmp_path / "once")
    path.write_text("precious")
    with pytest.raises(UsageError, match="no target file written"):
        write_template(path)
    assert path.read_text() == "precious"
