"""`zdfs bench DIR`: a quick test of a directory, with a verdict for each row.

It works as any program does, in a directory of its own below DIR, for about a minute, and removes
that again, also after ^C.  With `--beside OTHER` it does the same there.  Each row runs until its
time or its amount is used up.

*Cold* is what a user can have cold: the kernel here is told to let go of the file's pages
(posix_fadvise), and the file is opened anew.  The mount's own memory (48 MiB) and that of the
servers' kernels stay: this is no benchmark of disks.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from zdfs import progress
from zdfs.amounts import printable, size
from zdfs.errors import StartError
from zdfs.link import Link
from zdfs.starting import real
from zdfs.tools import visiting
from zdfs.verdicts import ROWS, Row, ratio, verdict

PIECE = 1024 * 1024
PAGE = 4096
PREFIX = ".zdfs-bench-"
ABOUT = """Measure a directory on any file system as a program sees it, for about a minute, and say
what the figures mean for zdfs.  It needs no rights but to write there, and leaves nothing behind.

exit status
  0  every row was measured
  1  some could not be, or it could not begin"""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of it."""

    seconds: float  # of a row
    pieces: int  # of 1 MiB, of the big file
    files: int  # small ones

    @property
    def room(self) -> int:
        """Bytes that must be free: all of it, once more, and some for whoever else writes."""
        return 2 * (self.pieces * PIECE + self.files * PAGE) + 32 * PIECE


FULL = Scale(4.0, 256, 2000)
QUICK = Scale(0.6, 32, 200)


def options(commands: Any) -> None:
    """Its arguments, for argparse."""
    parser = commands.add_parser(
        "bench", help="a quick test of a directory, with a verdict per row",
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("directory", type=Path, metavar="DIR", help="on any file system")
    parser.add_argument(
        "--beside", type=Path, metavar="OTHER", help="do the same there, and say the ratio"
    )
    parser.add_argument("--quick", action="store_true", help="ten seconds; figures jump more")
    parser.add_argument("--json", action="store_true", help="facts with stable keys")
    parser.set_defaults(do=command)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Measure and say it."""
    scale = QUICK if chosen.quick else FULL
    places = [chosen.directory] + ([chosen.beside] if chosen.beside else [])
    for place in places:
        _must_have_room(place, scale)
    if chosen.beside:
        scale = Scale(scale.seconds / 2, scale.pieces, scale.files)
    with _stopped_by_signals(), progress.Shown(chosen.json, "bench") as tell:
        measured = [measure(place, scale, tell) for place in places]
    facts = _facts(places, measured)
    print(json.dumps(facts, indent=2) if chosen.json else text(facts))
    return 1 if any(one.errors for one in measured) else 0


def _must_have_room(place: Path, scale: Scale) -> None:
    """StartError: it is no directory, or there is too little room."""
    if not place.is_dir():
        raise StartError(f"{place} is no directory")
    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    if free < scale.room:
        raise StartError(
            f"{place} has {size(free)} left; this wants {size(scale.room)}"
            + ("" if scale is QUICK else f" (with --quick {size(QUICK.room)})")
        )


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """What asks us to end is a ^C: the directory is removed then, too."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- measuring ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Measured:
    """What was found in a directory."""

    figures: dict[str, float] = field(default_factory=dict)  # by the names of rows
    errors: dict[str, str] = field(default_factory=dict)


def measure(place: Path, scale: Scale, tell: progress.Shown) -> Measured:
    """All rows, in a directory of their own.  StartError: nothing can be made there."""
    found = Measured()
    try:
        top = tempfile.mkdtemp(prefix=PREFIX, dir=place)
    except OSError as error:
        raise StartError(f"nothing can be made in {place}: {error.strerror}") from error
    try:
        work = Work(top, scale)
        for number, row in enumerate(ROWS):
            tell(f"{place}: {row.name}", number, len(ROWS))
            try:
                found.figures[row.name] = work.acts[row.name]()
            except OSError as error:
                found.errors[row.name] = str(error.strerror)
    finally:
        tell(f"{place}: removing what was made")
        _remove(top)
    return found


def _remove(top: str) -> None:
    try:
        shutil.rmtree(top)
    except OSError as error:
        raise StartError(f"{top} is left, remove it by hand: {error.strerror}") from error


class Work:
    """What each row does; the later ones work on what the earlier ones made."""

    def __init__(self, top: str, scale: Scale):
        self._top, self._scale = top, scale
        self._big = f"{top}/big"
        self._names: list[str] = []
        self._dice = random.Random(1)  # the same places each time
        self._end = 0.0
        self.acts: dict[str, Callable[[], float]] = dict(
            zip(
                (row.name for row in ROWS),
                (
                    self._write, self._read_cold, self._read_warm, self._read_pages, self._sync,
                    self._create, self._stat, self._list, self._rename, self._unlink,
                ),
                strict=True,
            )
        )  # fmt: skip

    def _rate(self, most: int, step: Callable[[int], float]) -> float:
        """What steps amount to in a second; until the time or their number is used up."""
        began = monotonic()
        amount = 0.0
        for number in range(most):
            amount += step(number)
            if monotonic() - began >= self._scale.seconds:
                break
        return amount / max(monotonic() - began, 1e-9)

    @contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        descriptor = os.open(path, flags, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    # --- a big file ----------------------------------------------------------------------------

    def _write(self) -> float:
        piece = self._dice.randbytes(PIECE)
        with self._opened(self._big, os.O_WRONLY | os.O_CREAT) as descriptor:
            began, done = monotonic(), 0
            while done < self._scale.pieces and monotonic() - began < self._scale.seconds:
                written = 0
                while written < PIECE:
                    written += os.write(descriptor, piece[written:])
                done += 1
            os.fsync(descriptor)
            return done * PIECE / 1e6 / (monotonic() - began)

    def _read_cold(self) -> float:
        with self._opened(self._big, os.O_RDONLY) as descriptor:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return self._read()

    def _read(self) -> float:
        with self._opened(self._big, os.O_RDONLY) as descriptor:
            pieces = os.fstat(descriptor).st_size // PIECE
            return self._rate(pieces, lambda _: len(os.read(descriptor, PIECE)) / 1e6)

    def _read_warm(self) -> float:
        """What was read a moment ago; all of it is gone through once more, if there is time."""
        self._read()
        return self._read()

    def _read_pages(self) -> float:
        with self._opened(self._big, os.O_RDONLY) as descriptor:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            pages = os.fstat(descriptor).st_size // PAGE
            places = self._dice.sample(range(pages), min(pages, 10_000))

            def page(number: int) -> int:
                return len(os.pread(descriptor, PAGE, places[number] * PAGE)) // PAGE

            return self._rate(len(places), page)

    def _sync(self) -> float:
        data = self._dice.randbytes(PAGE)
        with self._opened(f"{self._top}/synced", os.O_WRONLY | os.O_CREAT) as descriptor:

            def write(number: int) -> int:
                os.pwrite(descriptor, data, number % 16 * PAGE)
                os.fsync(descriptor)
                return 1

            return self._rate(self._scale.files, write)

    # --- small files ---------------------------------------------------------------------------

    def _create(self) -> float:
        data = self._dice.randbytes(PAGE)
        os.mkdir(f"{self._top}/small")

        def create(number: int) -> int:
            path = f"{self._top}/small/{number}"
            with self._opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
                os.write(descriptor, data)
            self._names.append(path)
            return 1

        return self._rate(self._scale.files, create)

    def _each(self, step: Callable[[str], object], rounds: int = 1) -> float:
        names = self._names * rounds

        def one(number: int) -> int:
            step(names[number])
            return 1

        return self._rate(len(names), one)

    def _stat(self) -> float:
        return self._each(os.stat)

    def _list(self) -> float:
        """Again and again: there are few names."""
        return self._rate(100, lambda _: len(os.listdir(f"{self._top}/small")))

    def _rename(self) -> float:
        figure = self._each(lambda path: os.rename(path, f"{path}x"))
        names = [f"{path}x" for path in self._names]
        self._names = [path if os.path.exists(path) else path[:-1] for path in names]
        return figure

    def _unlink(self) -> float:
        return self._each(os.unlink)


# --- showing it --------------------------------------------------------------------------------


def kind_of(place: Path) -> str:
    """The type of the file system there; "zdfs" if it is ours."""
    if visiting.inside(str(place), None)[1] is not None:
        return "zdfs"
    where, kind = real(place), "unknown"
    longest = -1
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        front, _, back = line.partition(" - ")
        directory = front.split(" ")[4]
        if f"{where}/".startswith(f"{directory.rstrip('/')}/") and len(directory) >= longest:
            longest, kind = len(directory), back.split(" ")[0]
    return kind


def _facts(places: list[Path], measured: list[Measured]) -> dict[str, Any]:
    """With keys that scripts rely on."""
    first, second = measured[0], measured[1] if len(measured) > 1 else None
    kinds = [kind_of(place) for place in places]
    return {
        "directory": str(places[0]),
        "file_system": kinds[0],
        "beside": str(places[1]) if second else None,
        "beside_file_system": kinds[1] if second else None,
        "rows": [_row(row, first, second, kinds[0] == "zdfs") for row in ROWS],
    }


def _row(row: Row, first: Measured, second: Measured | None, ours: bool) -> dict[str, Any]:
    figure = first.figures.get(row.name)
    other = second.figures.get(row.name) if second else None
    times = ratio(figure, other)
    word, words = verdict(row, figure)
    error = first.errors.get(row.name)
    if error is not None:
        word, words = "failed", f"failed: {error}"
    elif not ours:
        word, words = "not judged", "not judged: it is not zdfs"
    return {
        "name": row.name,
        "unit": row.unit,
        "figure": None if figure is None else rounded(figure),
        "beside": None if other is None else rounded(other),
        "beside_error": second.errors.get(row.name) if second else None,
        "ratio": None if times is None else rounded(times),
        "verdict": word,
        "text": words,
        "decided_by": row.reason,
        "good": row.good,
        "slow": row.slow,
    }


def rounded(figure: float) -> float:
    """To three digits that mean something."""
    if not figure:
        return 0.0
    return round(figure, max(0, 2 - math.floor(math.log10(abs(figure)))))


def text(facts: dict[str, Any]) -> str:
    """For people."""
    both = facts["beside"] is not None
    lines = [f"{printable(facts['directory'])} ({facts['file_system']})"]
    if both:
        lines[0] += f", beside {printable(facts['beside'])} ({facts['beside_file_system']})"
    head = f"{'':<22}{'figure':>10}" + (f"{'beside':>12}{'ratio':>9}" if both else "")
    lines += ["", f"{head}  {'unit':<11}verdict"]
    for one in facts["rows"]:
        line = f"{one['name']:<22}{_figure(one['figure']):>10}"
        if both:
            line += f"{_figure(one['beside']):>12}{_figure(one['ratio']):>9}"
        lines.append(f"{line}  {one['unit']:<11}{one['text']}")
        if one["beside_error"]:
            lines.append(f"{'':<22}beside it: {one['beside_error']}")
    slow = [one["name"] for one in facts["rows"] if one["verdict"] == "slow"]
    if slow:
        lines += ["", f"slow: {', '.join(slow)}; zdfs health and zdfs why say what is in the way"]
    return "\n".join(lines)


def _figure(figure: float | None) -> str:
    if figure is None:
        return "-"
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:g}"
