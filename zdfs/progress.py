"""How far a long command is, on stderr: on a terminal a bar, or a spinner where nobody can count,
once it takes longer than a moment; elsewhere a line now and then.

A thread of its own looks after it, so that it also appears while the command waits for an answer.
stdout is never touched: it belongs to scripts.
"""

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

APPEARS_S = 0.8  # what is done sooner needs no bar
LINES_S = 15.0  # between two lines where there is no terminal


class Shown:
    """Shows one stage at a time: `shown(stage, done, total)`; total 0: nobody knows.  `words` are
    shown until the first; quiet: nothing is ever shown."""

    def __init__(self, quiet: bool = False, words: str = ""):
        self._terminal = sys.stderr.isatty()
        self._stage, self._done, self._total = words, 0, 0
        self._lock = threading.Lock()
        self._bars: "Progress | None" = None
        self._bar: "TaskID | None" = None
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread = None if quiet else threading.Thread(target=self._look_after, daemon=True)

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        with self._lock:
            self._stage, self._done, self._total = stage, done, total
            self._update()

    def _update(self) -> None:
        if self._bars is None or self._bar is None:
            return
        total = max(self._total, self._done) if self._total else None
        counted = f"{self._done:,}" if self._done or self._total else ""
        self._bars.update(
            self._bar, description=self._stage, completed=self._done, total=total,
            counted=counted + (f"/{total:,}" if total else ""),
        )  # fmt: skip

    def _look_after(self) -> None:
        if not self._terminal:
            while not self._over.wait(LINES_S):
                with self._lock:
                    print(self._line(), file=sys.stderr, flush=True)
        elif not self._over.wait(APPEARS_S):
            bars = _bars()
            if self._over.is_set():
                return
            with self._lock:
                self._bars, self._bar = bars, bars.add_task("", total=None, counted="")
                self._update()
            bars.start()
            self._over.wait()
            bars.stop()

    def _line(self) -> str:
        about = f" of about {self._total:,}" if self._total else ""
        counted = f": {self._done:,}{about}" if self._done or about else ""
        return f"{self._stage}{counted} ({time.monotonic() - self._began:.0f} s)"


QUIET = Shown(quiet=True)  # for who has nobody to show it to


def _bars() -> "Progress":
    # Imported here: it takes a tenth of a second, which nothing quick should wait for.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<10}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[counted]}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # else a bar would take what a script is to read
    )
