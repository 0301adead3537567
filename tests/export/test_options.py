"""Options: precedence, parsing, and clear refusals."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.export.errors import InputError, UsageError
from edgec.export.options import parse_bytes, parse_shapes, parse_size, resolve
from edgec.targets import get_target

JETSON = get_target("jetson")
# all of Unicode but surrogates; hypothesis takes seconds to find out that UTF-8 has the same
ANY = st.characters(exclude_categories=["Cs"])


def test_precedence_from_flag_to_default(tmp_path: Path) -> None:
    config = tmp_path / "edgec.toml"
    config.write_text('[export]\nprecision = "int8"\nseed = 1\ncalib-limit = 7\nlabels = "a"\n')
    environ = {"EDGEC_PRECISION": "fp32", "EDGEC_SEED": "2", "EDGEC_LABELS": "b"}
    found = resolve({"precision": "fp16"}, JETSON, config=config, environ=environ)
    assert found.options.precision == "fp16"
    assert found.origin["precision"] == "command line"
    assert found.options.seed == 2
    assert found.origin["seed"] == "environment EDGEC_SEED"
    assert found.options.calib_limit == 7
    assert found.origin["calib_limit"] == str(config)
    assert found.options.formats == ("onnx", "tensorrt")
    assert found.origin["formats"] == "target jetson-orin-nano-jp6.2"
    assert found.origin["ram"] == "default"


def test_the_target_decides_what_is_not_said() -> None:
    assert resolve({}, JETSON, environ={}).options.precision == "fp16"


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ({"precision": "int4"}, "precision"),
        ({"calib_limit": "0"}, "calib-limit"),
        ({"calib_method": "magic"}, "calib-method"),
        ({"max_drop": "-1"}, "max-drop"),
        ({"ram": "many"}, "ram"),
        ({"input_size": "0"}, "input-size"),
        ({"shapes": ["x"]}, "shapes"),
        ({"formats": "onnx,exe"}, "formats"),
        ({"force": "maybe"}, "force"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_bad_values_name_the_option(flags: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        resolve(flags, JETSON, environ={})


@pytest.mark.parametrize(
    ("text", "error"),
    [("export = 3", InputError), ("[export", InputError), ("[export]\nx = 1", UsageError)],
)
def test_bad_configuration_files(tmp_path: Path, text: str, error: type[Exception]) -> None:
    config = tmp_path / "edgec.toml"
    config.write_text(text)
    with pytest.raises(error, match=r"edgec\.toml|\[export\]|configuration"):
        resolve({}, JETSON, config=config, environ={})


def test_sizes_and_shapes() -> None:
    assert parse_bytes("320K") == 327680
    assert parse_bytes("1.5 MiB") == 1572864
    assert parse_bytes("77") == 77
    assert parse_size("192x256") == (192, 256)
    assert parse_size("224") == (224, 224)
    assert parse_shapes(["a=b=1,3"]) == {"a=b": (1, 3)}


@given(st.text(ANY, max_size=12))
def test_parsers_never_fail_otherwise_than_with_value_errors(text: str) -> None:
    for parser in (parse_bytes, parse_size, parse_shapes):
        with suppress(ValueError):
            parser(text)
