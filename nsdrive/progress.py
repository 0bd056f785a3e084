"""A progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any


class Progress:
    """Call it with (done, total). `with Progress("scenarios") as progress: work(progress)`."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._bar: Any = None
        self._task: Any = None
        self._next_line_s = 0.0
        self._started_s = time.monotonic()

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn(self.unit), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self.unit, total=None)
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
            return
        now = time.monotonic()
        if done >= total or now >= self._next_line_s:
            print(f"{self.unit}: {done}/{total} ({now - self._started_s:.0f} s)", file=sys.stderr, flush=True)
            self._next_line_s = now + 10.0  # one line in ten seconds is enough for a log file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
