"""The application: verbs, error handling, exit codes."""

from __future__ import annotations

import signal
import sys
from typing import Any

import typer

from edgec.export.cli import (
    bench,
    build,
    cache,
    check,
    diff,
    doctor,
    evaluate,
    explain,
    export,
    models,
    plan,
    profile,
    report,
    run,
    targets,
)
from edgec.export.cli.output import print_json, version_callback
from edgec.export.errors import EdgecError, InterruptedByUser
from edgec.export.explain import catalogue

EXIT_CODES = """\
Exit codes: 0 ok, 1 bug in edgec, 2 usage, 3 unsupported model or operator, 4 accuracy gate,
5 budget gate, 6 missing tool or device, 7 bad input file, 130 interrupted.
"""

app = typer.Typer(
    name="edgec",
    help="Compile vision networks for edge devices: PyTorch or ONNX in, checked artifacts out.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

VERBS = (
    models,
    targets,
    check,
    export,
    run,
    evaluate,
    build,
    bench,
    diff,
    report,
    plan,
    profile,
    explain,
    doctor,
    cache,
)
for verb in VERBS:
    verb.register(app)


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=version_callback, is_eager=True, help="Print the version."
    ),
) -> None:
    """Compile vision networks for edge devices: PyTorch or ONNX in, checked artifacts out."""


def main(argv: list[str] | None = None) -> None:
    """Console entry point; ends the process with a documented exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    _terminate_cleanly()
    try:
        app(args=arguments, standalone_mode=True)
    except EdgecError as error:
        _fail(error, as_json="--json" in arguments)
    except KeyboardInterrupt:
        interrupted = InterruptedByUser("EC130", "interrupted", fix="nothing half-written is left")
        _fail(interrupted, as_json="--json" in arguments)
    except BrokenPipeError:
        # the reader of our stdout (head, less) has gone: not an error of ours
        sys.stderr.close()
        raise SystemExit(0) from None


def _fail(error: EdgecError, *, as_json: bool) -> None:
    entry = catalogue().get(error.code)
    if error.fix is None and entry is not None:
        error.fix = entry.fix
    if as_json:
        print_json("edgec.error/1", {"error": error.to_json()})
    print(f"error: {error}", file=sys.stderr)
    if error.code != "EC130":
        print(f"  more: edgec explain {error.code}", file=sys.stderr)
    raise SystemExit(error.exit_code)


def _terminate_cleanly() -> None:
    """SIGTERM unwinds like Ctrl-C, so that temporary folders are removed."""

    def stop(signum: int, frame: Any) -> None:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, stop)
