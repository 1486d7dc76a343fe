"""zdfs beside GlusterFS, MooseFS and the local disk: `make race`, or `python -m bench.race`.

All contestants are set up on this machine and one disk, each is shown to keep three copies, and the
rows of `bench.rows` are run in turn: for each row, each contestant once, beginning with another one
in each round.  A row is a process of its own (`bench.works`) under a time limit.  Before it, what
others wrote is synced to the disk; before a cold row the contestant is mounted anew and the kernel
drops its caches.  (What servers hold in memory of their own stays; MooseFS's master holds all
metadata so, the others' stores are files.)  Figures are rates; the table shows their medians.

A row that fails, or that doesn't end in time, is shown so, and its contestant is mounted anew.
Everything that was started ends with the race, however that ends.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from bench import chart, material, table
from bench.contestants import FAILURES, Contestant, Keyed, Local, RaceError, Unsynced
from bench.contestants import Writeback, Zdfs
from bench.peers import Gluster, Moose
from bench.rows import BY_NAME, Row, plan

ROOT = Path(__file__).parent.parent
CONTESTANTS: dict[str, type[Contestant]] = {
    "gluster": Gluster,
    "moosefs": Moose,
    "zdfs": Zdfs,
    "unsynced": Unsynced,
    "keyed": Keyed,
    "writeback": Writeback,
    "local": Local,
}
DEFAULT = ("gluster", "moosefs", "zdfs", "local")
NEEDED = ("ip", "nsenter", "glusterd", "mfsmaster", "mfschunkserver", "mfsmount", "git", "gcc")


class Race:
    """Contestants that are ready, and what came of them."""

    def __init__(self, folder: Path, chosen: argparse.Namespace):
        self.material = folder / "material"
        self.scale, self.limit_s, self.rounds = chosen.scale, chosen.limit, chosen.rounds
        self.rows = plan(chosen.only)
        self.contestants = {name: CONTESTANTS[name](folder / name) for name in chosen.contestants}
        self.rates: dict[tuple[str, str], list[float | None]] = {}
        self.failures: list[dict[str, Any]] = []
        self.copies: dict[str, list[int]] = {name: [] for name in self.contestants}
        self.stopped = False  # before its end

    # --- before and after ----------------------------------------------------------------------

    def set_up(self, stack: ExitStack) -> None:
        """Start everybody.  RaceError: one can't."""
        material.make(self.material, self.scale)
        for name, contestant in self.contestants.items():
            say(f"starting {contestant.title} ...")
            contestant.folder.mkdir()
            stack.callback(contestant.close)
            try:
                contestant.start()
            except FAILURES as error:
                raise RaceError(f"{contestant.title} does not start: {words_of(error)}") from error
            self.prove(name, contestant.top)

    def prove(self, name: str, where: Path) -> None:
        """Count the copies of a file just written and synced.  RaceError: they are too few."""
        contestant = self.contestants[name]
        content = material.renew_proof(self.material)
        self.work(["proof", str(where)])
        path = (where / "proof").relative_to(contestant.top)
        found = contestant.copies(str(path), content)
        self.copies[name].append(found)
        if found != contestant.copies_wanted:
            raise RaceError(f"{contestant.title} has {found} copies of a synced file")

    # --- the rows --------------------------------------------------------------------------------

    def run(self) -> None:
        """All rounds."""
        names = list(self.contestants)
        for number in range(self.rounds):
            first = number % len(names)
            lost: set[tuple[str, str]] = set()  # row and contestant: what failed in this round
            for row in self.rows:
                for name in names[first:] + names[:first]:
                    rate = self.turn(number, row, name, lost)
                    self.rates.setdefault((row.name, name), []).append(rate)
        for name, contestant in self.contestants.items():
            try:
                self.prove(name, contestant.top / "end")
            except (RaceError, *FAILURES) as error:
                self.failed(self.rounds - 1, "three copies at the end", name, words_of(error))

    def turn(self, number: int, row: Row, name: str, lost: set[tuple[str, str]]) -> float | None:
        """A row on a contestant: how much it did a second; None: it failed."""
        contestant = self.contestants[name]
        missing = [need for need in row.needs if (need, name) in lost]
        say(f"round {number + 1} of {self.rounds}: {row.name}, {contestant.title}", end="")
        try:
            if missing:
                raise RaceError(f"not tried: {', '.join(missing)} had failed")
            self.ready(row, contestant)
            words = [row.work, str(contestant.top / f"round-{number + 1}")]
            amount, seconds = self.work([*words, "--streams", str(row.streams)], contestant)
            if not contestant.present():
                raise RaceError("the mount went away")
            say(f": {amount / seconds:,.1f} {row.unit}")
            return amount / seconds
        except (RaceError, *FAILURES) as error:
            say(f": {words_of(error)}")
            lost.add((row.name, name))
            self.failed(number, row.name, name, words_of(error))
            if not missing:
                self.revive(contestant)
        return None

    def failed(self, number: int, row: str, name: str, text: str) -> None:
        """Remember it for the notes."""
        self.failures.append({"round": number + 1, "row": row, "contestant": name, "text": text})

    def ready(self, row: Row, contestant: Contestant) -> None:
        """What others wrote is on the disk; what is to be cold is."""
        if not contestant.present():
            contestant.revive()
        subprocess.run(["sync", "-f", self.material], check=True, timeout=self.limit_s)
        if row.cold:
            contestant.remount()
            Path("/proc/sys/vm/drop_caches").write_text("3")

    def revive(self, contestant: Contestant) -> None:
        """After a failure; if this fails too, the next row says so."""
        try:
            contestant.revive()
        except FAILURES as error:
            say(f"{contestant.title} can't be mounted anew: {words_of(error)}")

    def work(self, words: Sequence[str], contestant: Contestant | None = None) -> tuple[float, ...]:
        """Have a process do it: how much, and in how many seconds.  RaceError: it failed."""
        line = [sys.executable, "-m", "bench.works", *words]
        line += ["--material", str(self.material), "--scale", str(self.scale)]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            line, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, start_new_session=True
        ) as process:
            try:
                out, errors = process.communicate(timeout=self.limit_s)
            except subprocess.TimeoutExpired:
                end(process)
                if contestant is not None:
                    self.revive(contestant)  # who hangs in a mount ends when that does
                raise RaceError(f"timed out after {self.limit_s:g} s") from None
            finally:
                end(process)
        if process.returncode:
            raise RaceError("failed: " + (errors.strip().splitlines() or ["without a word"])[-1])
        return tuple(map(float, out.split()))

    # --- the outcome -----------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        who = self.contestants.items()
        return {
            "scale": self.scale,
            "rounds": self.rounds,
            "stopped": self.stopped,
            "machine": f"{os.cpu_count()} processors, Linux {platform.release()}",
            "contestants": {
                name: {"title": one.title, "version": one.version(), "note": one.note}
                for name, one in who
            },
            "copies": self.copies,
            "rows": [
                {
                    "name": row.name,
                    "what": row.what,
                    "unit": row.unit,
                    "rates": {name: self.rates.get((row.name, name), []) for name in self.copies},
                }
                for row in self.rows
                if not row.hidden
            ],
            "failures": self.failures,
        }


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def say(text: str, end: str = "\n") -> None:
    """How far the race is, on stderr."""
    print(text, end=end, file=sys.stderr, flush=True)


def words_of(error: BaseException) -> str:
    """One line about it."""
    if isinstance(error, subprocess.CalledProcessError):
        output = error.stderr.decode() if isinstance(error.stderr, bytes) else error.stderr
        return f"{error.cmd[0]} failed: {(output or '').strip()}"
    return " ".join(str(error).split()) or type(error).__name__


# --- the command ---------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(prog="bench.race", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="medians of so many (3)")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="F",
        help="sizes and counts are multiplied by it; a round of 0.003 takes 90 s (1)",
    )  # fmt: skip
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", choices=BY_NAME)
    parser.add_argument(
        "--contestants", nargs="+", default=DEFAULT, metavar="NAME", choices=CONTESTANTS,
        help=f"of {', '.join(CONTESTANTS)} ({' '.join(DEFAULT)})",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=float, default=1800.0, metavar="S",
        help="a row that takes longer on a contestant has failed (1800)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="write an SVG there")
    parser.add_argument(
        "--again", type=Path, metavar="FILE", help="no race: table and chart of what --json wrote"
    )
    return parser.parse_args()


def hold(chosen: argparse.Namespace) -> dict[str, Any]:
    """The race.  RaceError: it can't be held."""
    if os.geteuid() != 0:
        raise RaceError("only root may mount, make network namespaces and drop caches")
    paths = [*os.environ["PATH"].split(":"), "/usr/sbin", "/sbin"]
    os.environ["PATH"] = ":".join(dict.fromkeys(paths))
    missing = [program for program in NEEDED if not shutil.which(program)]
    if missing:
        raise RaceError(f"{', '.join(missing)}: not here; .ci/setup peers installs what is missing")
    with (
        tempfile.TemporaryDirectory(prefix="zdfs-race-", ignore_cleanup_errors=True) as folder,
        ExitStack() as stack,
    ):
        race = Race(Path(folder), chosen)
        try:
            race.set_up(stack)
            race.run()
        except KeyboardInterrupt:
            say("stopped")
            race.stopped = True
        finally:
            # What follows must not be cut short.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            stack.close()
    if race.stopped and not race.rates:
        raise RaceError("stopped before its first row")
    return race.document()


def stop(number: int, frame: FrameType | None) -> None:
    """A signal that ends the race as ^C does."""
    raise KeyboardInterrupt


def main() -> int:
    """The command."""
    chosen = parse()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    try:
        document = json.loads(chosen.again.read_text()) if chosen.again else hold(chosen)
    except (RaceError, pytest.fail.Exception) as error:
        print(f"race: {words_of(error)}", file=sys.stderr)
        return 1
    if chosen.json:
        chosen.json.write_text(json.dumps(document, indent=1) + "\n")
    if chosen.chart:
        chosen.chart.write_text(chart.draw(document))
    print(table.text(document))
    return 130 if document["stopped"] else 0


if __name__ == "__main__":
    sys.exit(main())
