"""Progress of long work, on a terminal and on a pipe."""

import time
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from infodyn_interp.cli.printing import console

PLAIN_SECONDS = 15.0


class Report:
    """Progress: on a terminal a bar with tokens/s and time left, on a pipe a line now and then.

    It is called as `report(stage, done, total)`, in tokens or another unit, and writes to standard error, so that
    standard output holds results alone.
    """

    def __init__(self, unit: str = "tokens", every: float = PLAIN_SECONDS) -> None:
        self._unit = unit
        self._console = console(stderr=True)
        self._every = every
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[float, int]] = {}
        self._spoken = time.monotonic()

    def __enter__(self) -> "Report":
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bar = Progress(
                TextColumn("{task.description:>28}"),
                BarColumn(),
                TextColumn("{task.fields[tokens]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` units of a stage are through."""
        now = time.monotonic()
        start, before = self._begun.setdefault(stage, (now, done))
        speed = (done - before) / (now - start) if now > start else 0.0
        if self._bar is not None:
            words = f"{done:,}/{total:,} {self._unit}, {speed:,.0f}/s"
            if stage not in self._tasks:
                self._tasks[stage] = self._bar.add_task(stage, total=total or None, tokens=words)
            self._bar.update(self._tasks[stage], completed=done, total=total or None, tokens=words)
        elif now - self._spoken >= self._every or (done >= total > 0 and now - start >= 1):
            self._spoken = now
            pace = f", {speed:,.0f} {self._unit}/s" if speed > 0 else ""
            left = f", {(total - done) / speed:,.0f} s left" if speed > 0 and done < total else ""
            line = f"{stage}: {done:,} of {total:,} {self._unit}{pace}{left}"
            self._console.print(line, markup=False)
