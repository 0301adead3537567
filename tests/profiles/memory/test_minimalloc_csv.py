"""MiniMalloc's CSV: round trips, and clean errors for everything else."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.export.errors import InputError
from edgec.profiles.memory.minimalloc_csv import format_csv, parse_csv, read_csv
from edgec.profiles.memory.problem import Item, Problem

HERE = Path("table.csv")


def test_a_table_of_minimalloc() -> None:
    text = "id,lower,upper,size\nb1,0,3,4\nb2,3,9,4\n"
    problem, offsets = parse_csv(text, HERE)
    assert problem.items == (Item("b1", 0, 3, 4), Item("b2", 3, 9, 4))
    assert offsets is None
    assert format_csv(problem) == text
    assert format_csv(problem, [8, 0]).splitlines()[1] == "b1,0,3,4,8"


# all of Unicode but surrogates; hypothesis takes seconds to find out that UTF-8 has the same
ANY = st.characters(exclude_categories=["Cs"])
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(names, st.integers(0, 99), st.integers(1, 99), st.integers(1, 1 << 40)),
        unique_by=lambda r: r[0],
        max_size=8,
    ),
    offset=st.one_of(st.none(), st.integers(0, 1 << 40)),
)
def test_round_trip(rows: list[tuple[str, int, int, int]], offset: int | None) -> None:
    problem = Problem(tuple(Item(n, a, a + b, s) for n, a, b, s in rows))
    offsets = None if offset is None else [offset] * len(rows)
    assert parse_csv(format_csv(problem, offsets), HERE) == (problem, offsets)


def test_columns_in_any_order_and_others_beside_them() -> None:
    text = "\ufeffsize , note,upper,offset,id,lower\r\n4,x,3,8,b,0\r\n\r\n".lstrip("\ufeff")
    problem, offsets = parse_csv(text, HERE)
    assert problem.items == (Item("b", 0, 3, 4),)
    assert offsets == [8]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        ("id,lower,upper\n", "size missing"),
        ("id,lower,upper,size,size\n", "stands twice"),
        ("id,lower,upper,size\na,0,1\n", "row 2 has 3 cells"),
        ("id,lower,upper,size\na,0,1,1\na,0,1,1\n", "stands twice"),
        ("id,lower,upper,size\n,0,1,1\n", "empty"),
        ("id,lower,upper,size\na,1,1,1\n", "from 1 to 1"),
        ("id,lower,upper,size\na,0,1,0\n", "0 bytes"),
        ("id,lower,upper,size\na,-1,1,1\n", "'-1'"),
        ("id,lower,upper,size\na,0,1,1_0\n", "'1_0'"),
        ("id,lower,upper,size\na,0,1,1.5\n", "'1.5'"),
        ("id,lower,upper,size\na,0,1,\u0661\n", "whole number"),
        ("id,lower,upper,size\na,0,1,99999999999999999999\n", "whole number"),
        ("id,lower,upper,size,offset\na,0,1,1,x\n", "offset = 'x'"),
        ('id,lower,upper,size\n"a,0,1,1\n', "end of data"),
    ],
)
def test_what_is_wrong_is_said(text: str, word: str) -> None:
    with pytest.raises(InputError, match="EC750") as caught:
        parse_csv(text, HERE)
    assert word in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "a.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    large = tmp_path / "b.csv"
    with large.open("wb") as stream:
        stream.truncate(17 << 20)
    for path in (binary, large, tmp_path / "missing.csv", tmp_path):
        with pytest.raises(InputError, match="EC750"):
            read_csv(path)


@settings(deadline=None, max_examples=200)
@given(text=st.text(ANY, max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for whole in (text, "id,lower,upper,size\n" + text):
        with contextlib.suppress(InputError):  # any other exception is a failure
            parse_csv(whole, HERE)
