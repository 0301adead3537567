"""Power traces of a meter that edgec does not drive, written here by hand."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from edgec.export.errors import InputError
from edgec.runtime.energy_trace import Loop, energy_of_trace, read_trace

NOW = 1_700_000_000.0
LOOP = Loop(NOW, NOW + 1, NOW + 2, NOW + 12, 500)


def write(path: Path, rows: list[tuple[float, float]]) -> Path:
    path.write_text("time,watts\n" + "".join(f"{at:.3f},{watts}\n" for at, watts in rows))
    return path


def trace(path: Path, until: float = 14.0) -> Path:
    """20 mW asleep, 120 mW while inferences run, a thousand readings a second."""
    seconds = [-1 + i / 100 for i in range(int(100 * (until + 1)))]
    return write(path, [(NOW + s, 0.12 if 2 <= s <= 12 else 0.02) for s in seconds])


def test_joules_of_an_inference(tmp_path: Path) -> None:
    found = energy_of_trace(trace(tmp_path / "js220.csv"), LOOP)["energy"]
    assert found["meter"] == "js220.csv"
    assert found["watts"] == pytest.approx(0.12, rel=0.01)
    assert found["idle_watts"] == pytest.approx(0.02, rel=0.01)
    assert found["joules_per_inference"] == pytest.approx(0.12 * 10 / 500, rel=0.01)
    assert (found["inferences"], found["seconds"]) == (500, 10.0)


def test_a_trace_that_is_still_being_written_is_waited_for(tmp_path: Path) -> None:
    path = trace(tmp_path / "slow.csv", until=6.0)
    with path.open("a") as file:
        file.write(f"{NOW + 6:.3f}")  # half a line

    def go_on() -> None:
        time.sleep(0.3)
        trace(path)

    thread = threading.Thread(target=go_on)
    thread.start()
    found = energy_of_trace(path, LOOP, wait=5.0)
    thread.join()
    assert found["energy"]["watts"] == pytest.approx(0.12, rel=0.01)


def test_no_number_where_the_meter_was_not_there(tmp_path: Path) -> None:
    early = energy_of_trace(trace(tmp_path / "a.csv", until=6.0), LOOP, wait=0.2)
    assert "does the meter still record" in early["no_energy"]
    late = write(tmp_path / "b.csv", [(NOW + 5, 0.1), (NOW + 20, 0.1)])
    assert "a.csv" not in energy_of_trace(late, LOOP, wait=0.2)["no_energy"]
    nothing = energy_of_trace(write(tmp_path / "c.csv", []), LOOP, wait=0.2)
    assert "has nothing" in nothing["no_energy"]
    coarse = write(tmp_path / "d.csv", [(NOW - 9, 0.1), (NOW + 99, 0.1)])
    assert "too few readings" in energy_of_trace(coarse, LOOP, wait=0.2)["no_energy"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "its columns are none"),
        ("seconds,amperes\n1,2\n", "seconds, amperes"),
        ("time,watts\n0.5,0.1\n", "no time since 1970"),
        (f"time,watts\n{NOW},0.1\n{NOW - 1},0.1\n", "line 3 goes back"),
        (f"time,watts\n{NOW},much\n{NOW},0.1\n", "line 2 holds no two numbers"),
        (f"time,watts\n{NOW},nan\n", "line 2 holds no two numbers"),
    ],
)
def test_files_that_are_no_traces(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(InputError, match="EC779") as caught:
        read_trace(path)
    assert why in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="EC779"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="EC779"):
        read_trace(tmp_path / "binary.csv")
