"""Progress on stderr and the log that a bundle keeps."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tick = Callable[[int, int | None], None]


class Reporter:
    """Tells the user what is going on; every line also goes to `log`.

    Args:
        stages: how many stages there will be (for "stage k of n").
        quiet: print nothing but warnings.
        verbose: print details as well.
    """

    def __init__(self, stages: int = 0, *, quiet: bool = False, verbose: bool = False) -> None:
        self.stages = stages
        self.quiet = quiet
        self.verbose = verbose
        self.log: list[str] = []
        self.warnings: list[str] = []
        self._done = 0
        self._tty = sys.stderr.isatty()

    def warn(self, text: str) -> None:
        """A warning: always printed, kept for the report."""
        self.warnings.append(text)
        self._line(f"warning: {text}", show=True)

    def info(self, text: str) -> None:
        """One line of what happened."""
        self._line(text, show=not self.quiet)

    def detail(self, text: str) -> None:
        """A line for ``-v`` and the log."""
        self._line(text, show=self.verbose and not self.quiet)

    def clear_line(self) -> None:
        """Make room on the terminal for a progress bar of another kind."""
        if self._tty and not self.quiet:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()

    @contextmanager
    def stage(self, title: str) -> Iterator[Tick]:
        """A timed stage; yields a function ``tick(done, total)`` for work that can be counted."""
        self._done += 1
        label = f"[{self._done}/{max(self.stages, self._done)}] {title}"
        start = time.perf_counter()
        last = start

        def tick(done: int, total: int | None) -> None:
            nonlocal last
            now = time.perf_counter()
            if self._tty and not self.quiet and now - last > 0.1:
                last = now
                of = f"/{total}" if total else ""
                sys.stderr.write(f"\r\x1b[2K{label}  {done}{of}")
                sys.stderr.flush()

        if self._tty and not self.quiet:
            sys.stderr.write(f"{label} …")
            sys.stderr.flush()
        try:
            yield tick
        except BaseException:
            if self._tty and not self.quiet:
                sys.stderr.write("\n")
            raise
        if self._tty and not self.quiet:
            sys.stderr.write("\r\x1b[2K")
        self._line(f"{label}  {time.perf_counter() - start:.1f} s", show=not self.quiet)

    def _line(self, text: str, *, show: bool) -> None:
        self.log.append(text)
        if show:
            print(text, file=sys.stderr, flush=True)
