"""How far a long command is: a bar on a terminal, now and then a line elsewhere; on stderr."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY = 100_000  # steps between two lines where there is no terminal


class Shown:
    """Shows one stage at a time: `shown(stage, done, total)`; total 0: nobody knows."""

    def __init__(self, quiet: bool = False):
        self._terminal = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._stage, self._said = "", 0
        self._bars = _bars() if self._terminal else None
        self._bar = None if self._bars is None else self._bars.add_task("")

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage or done < self._said:
            self._stage, self._said = stage, 0
        if self._bars is not None and self._bar is not None:
            whole = max(total, done) if total else None
            self._bars.update(self._bar, description=stage, completed=done, total=whole)
        elif not self._quiet and done >= self._said + LINE_EVERY:
            self._said = done
            print(f"{stage}: {done}" + (f" of about {total}" if total else ""), file=sys.stderr)


def _bars() -> "Progress":
    # Imported here: it takes a tenth of a second, which no node or mount should wait for.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn

    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
