"""Plant each trap, one at a time, and see a test turn red: `make mutants [ONLY="7 14b"]`.

Works in temporary copies of the checkout.  Each command is run on the unchanged code first and must
be green there.  Prints a table as it goes; the exit status is 1 when a mutant stays green, does not
apply, or its command can't be run.  When all are caught, the table in docs/TESTING.md is written.
"""

import argparse
import itertools
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from tests.mutants import planted
from tests.mutants.planted import ROOT, DoesNotApply, Mutant

LIMIT_S = 300.0  # a command that takes longer hangs
LEFT_OUT = (".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "mnt", "zdfs-store")
SEED = "1"  # of Hypothesis and of the tests' own dice


class Colour(Enum):
    """How a command ended."""

    GREEN = "green"
    RED = "red"
    HUNG = "red: it did not end"
    BROKEN = "can't be run"


Ended = tuple[Colour, str]  # and why, in a line


class Copy:
    """A copy of the checkout, in which one mutant is planted at a time."""

    def __init__(self, directory: Path):
        self.root = directory
        shutil.copytree(ROOT, directory, ignore=shutil.ignore_patterns(*LEFT_OUT))
        (directory / ".venv").symlink_to((ROOT / ".venv").resolve())
        found = self._run([sys.executable, "-c", "import zdfs; print(zdfs.__file__)"])[1]
        assert found.startswith(str(directory)), f"the copy's tests would look at {found}"

    def colour(self, command: str) -> Ended:
        """Run a command here: how it ended, and why in a line."""
        words = command.split()
        if words[0] == "sim":
            line = [sys.executable, "-m", "tests.mutants.lives", *words[1:]]
        else:
            line = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
            line += ["--timeout", "120", "--seed", SEED, *words]
        code, said = self._run(line)
        if code is None:
            return Colour.HUNG, ""
        colour = {0: Colour.GREEN, 1: Colour.RED}.get(code, Colour.BROKEN)
        return colour, _reason(said)

    def with_mutant(self, mutant: Mutant) -> Ended:
        """Its command's colour with the mutant planted."""
        path = self.root / mutant.file
        before = path.read_text()
        try:
            _write(path, mutant.mutated(before))
            return self.colour(mutant.caught_by)
        finally:
            _write(path, before)

    def _run(self, line: list[str]) -> tuple[int | None, str]:
        """Exit status (None: it hung, and was ended) and output."""
        environment = {**os.environ, "PYTHONPATH": str(self.root)}
        process = subprocess.Popen(
            line, cwd=self.root, env=environment, start_new_session=True, text=True,
            errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            said, _ = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its own group: nobody else's
            process.communicate()
            return None, ""
        return process.returncode, said


def _write(path: Path, text: str) -> None:
    """Two changes in one second may have one size: Python must not take the compiled one of before
    for this one's."""
    path.write_text(text)
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def _reason(said: str) -> str:
    """The line of an output that says most."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for start in ("FAILED", "ERROR", "RED", "E  "):
        for line in lines:
            if line.startswith(start):
                return line
    return lines[-1] if lines else ""


def chosen(only: list[str]) -> list[Mutant]:
    """The mutants of these traps, or with these names; all."""
    mutants = [mutant for trap in planted.traps() for mutant in trap.mutants]
    if not only:
        return mutants
    found = [m for m in mutants if m.name in only or str(m.trap) in only]
    known = {m.name for m in mutants} | {str(m.trap) for m in mutants}
    if unknown := set(only) - known:
        raise SystemExit(f"no such trap or mutant: {', '.join(sorted(unknown))}")
    return found


class Hunt:
    """Some mutants, some copies to plant them in, and those that got away."""

    def __init__(self, mutants: list[Mutant], folder: Path, jobs: int, verbose: bool):
        self.mutants, self.jobs, self.verbose = mutants, jobs, verbose
        self.escaped: list[str] = []
        self.copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for number in range(jobs):
            self.copies.put(Copy(folder / str(number)))

    def run(self) -> None:
        """Each command on the unchanged code, and with its mutants."""
        before: dict[str, Future[Ended]] = {}
        tried: list[Future[Ended]] = []
        with ThreadPoolExecutor(self.jobs) as pool:
            for mutant in self.mutants:
                command = mutant.caught_by
                if command not in before:
                    before[command] = pool.submit(self._unchanged, command)
                tried.append(pool.submit(self._planted, mutant))
            try:
                for mutant, found in zip(self.mutants, tried):
                    colour, why = before[mutant.caught_by].result()
                    if colour is not Colour.GREEN:
                        self._tell(mutant, Colour.BROKEN, f"without it {colour.value}: {why}")
                    else:
                        self._tell(mutant, *found.result())
            finally:
                pool.shutdown(cancel_futures=True)  # ^C ends after those underway

    def _tell(self, mutant: Mutant, colour: Colour, why: str) -> None:
        if colour in (Colour.GREEN, Colour.BROKEN):
            self.escaped.append(mutant.name)
        print(f"{mutant.name:>4}  {colour.value:<12}  {mutant.plants} ({mutant.file})")
        if self.verbose or colour is not Colour.RED:
            print(f"      {mutant.caught_by}\n      {why}")
        sys.stdout.flush()

    def _unchanged(self, command: str) -> Ended:
        with self._copy() as copy:
            return copy.colour(command)

    def _planted(self, mutant: Mutant) -> Ended:
        with self._copy() as copy:
            try:
                return copy.with_mutant(mutant)
            except DoesNotApply as error:
                return Colour.BROKEN, str(error)

    @contextmanager
    def _copy(self) -> Iterator[Copy]:
        copy = self.copies.get()
        try:
            yield copy
        finally:
            self.copies.put(copy)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("only", nargs="*", help="numbers of traps, or names of mutants")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--verbose", action="store_true", help="say why each turned red")
    settings = parser.parse_args()
    only = list(itertools.chain.from_iterable(word.split() for word in settings.only))
    mutants = chosen(only)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="zdfs-mutants-") as folder:
        hunt = Hunt(mutants, Path(folder), settings.jobs, settings.verbose)
        hunt.run()
    caught, seconds = len(mutants) - len(hunt.escaped), time.monotonic() - began
    print(f"{len(mutants)} mutants, {caught} caught, in {seconds:.0f} s")
    if hunt.escaped:
        print(f"not caught: {', '.join(hunt.escaped)}")
        return 1
    if not only:
        text = planted.document(planted.DOCUMENT.read_text(), planted.traps())
        planted.DOCUMENT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
