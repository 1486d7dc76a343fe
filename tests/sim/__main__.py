"""Many simulated lives, or one of them told.

    python -m tests.sim run [--seeds N] [--first SEED] [--kind KIND ...]     make sim SEEDS=N
    python -m tests.sim replay SEED [--kind KIND] [--wire]       make replay SEED=N LIFE=KIND
    python -m tests.sim coverage [--seeds N]                     make sim-coverage SEEDS=N

`run` plays every kind of life on every seed, on all processors; what fails is printed with the end
of its story and the command that plays it again.  The exit status says whether anything failed.
"""

import argparse
import contextlib
import gc
import os
import secrets
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.sim.kinds import KINDS
from tests.sim.life import Broken, Story, play

ZDFS = Path(__file__).resolve().parents[2] / "zdfs"
# What the world has its own of, or what no simulated cluster needs: the rest is the core.
NOT_CORE = """
__init__ acls addresses admin blockstore broker callers cli corrupt describe disk extended fuse
fuselocks index kernel link listener log mount paths pending progress ranged replay starting store
up watchers workers
""".split()


class Played(NamedTuple):
    """What became of a life."""

    story: Story | None
    trouble: str


def try_life(life: tuple[str, int]) -> Played:
    """Play one; never raises."""
    try:
        played = Played(play(*life)._replace(lines=[]), "")
    except Broken as broken:
        cause = "".join(traceback.format_exception(broken.__cause__, limit=-3))
        played = Played(None, f"{cause}{broken}")
    gc.collect()  # coroutines of the dead
    return played


def lives(first: int, count: int, kinds: list[str]) -> Iterator[tuple[str, int]]:
    """All of them."""
    for seed in range(first, first + count):
        yield from ((kind, seed) for kind in kinds)


class Tally:
    """What was done so far."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.lives = self.failed = 0
        self.seconds = 0.0
        self.faults: Counter[str] = Counter()
        self.said = self.began

    def add(self, played: Played) -> None:
        """One more; says how far we are, at times."""
        self.lives += 1
        if played.story is None:
            self.failed += 1
            print(played.trouble, flush=True)
        else:
            self.seconds += played.story.seconds
            self.faults.update(played.story.strikes)
            self.faults.update(played.story.messages)
        if time.monotonic() - self.said > 10:
            self.said = time.monotonic()
            print(f"{self.lives} lives, {self.failed} failed", flush=True)

    def close(self) -> None:
        """In the end."""
        minutes = (time.monotonic() - self.began) / 60
        sent = self.faults.pop("messages", 0)
        faults = sum(self.faults.values())
        print(f"{self.lives} lives, {self.failed} failed, in {minutes:.1f} minutes")
        print(f"{self.seconds / 3600:.1f} simulated hours, {sent} messages, {faults} faults:")
        print("  " + ", ".join(f"{number} {name}" for name, number in self.faults.most_common()))
        print(
            f"per minute: {self.seconds / 3600 / minutes:.2f} simulated hours, "
            f"{faults / minutes:.0f} faults"
        )


def run(arguments: argparse.Namespace) -> int:
    """Every kind on every seed."""
    first = secrets.randbelow(2**32) if arguments.first is None else arguments.first
    print(f"seeds {first} to {first + arguments.seeds - 1}", flush=True)
    tally = Tally()
    chosen = lives(first, arguments.seeds, arguments.kind or list(KINDS))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for played in pool.map(try_life, chosen, chunksize=4):
            tally.add(played)
    tally.close()
    return 1 if tally.failed else 0


def replay(arguments: argparse.Namespace) -> int:
    """One seed of each kind named, or of all, told from beginning to end."""
    for kind in arguments.kind or KINDS:
        print(f"--- {kind}, seed {arguments.seed}: {KINDS[kind]}")
        try:
            story = play(kind, arguments.seed, arguments.wire, all_lines=True)
        except Broken as broken:
            traceback.print_exception(broken.__cause__, limit=-6)
            print(broken)
            return 1
        print("\n".join(story.lines))
        print(f"{story.seconds:.0f} s; faults: {story.strikes}; messages: {story.messages}")
    return 0


def coverage(arguments: argparse.Namespace) -> int:
    """Lines of the core that some life ran, by module."""
    with tempfile.TemporaryDirectory() as place:
        environment = {**os.environ, "COVERAGE_FILE": f"{place}/data"}
        python = [sys.executable, "-m", "coverage"]
        kept = [path for path in sorted(ZDFS.glob("**/*.py")) if path.stem not in NOT_CORE]
        include = "--include=" + ",".join(
            str(path) for path in [*kept, ZDFS / "wire" / "__init__.py"]
        )
        command = [*python, "run", include, "-m", "tests.sim", "one-by-one"]
        command += ["--seeds", str(arguments.seeds)]
        command += [] if arguments.first is None else ["--first", str(arguments.first)]
        status = subprocess.run(command, env=environment, check=False).returncode
        report = [*python, "report", "--skip-empty", "--sort=name"]
        subprocess.run(report, env=environment, check=False)
    return status


def one_by_one(arguments: argparse.Namespace) -> int:
    """As run, in this process."""
    first = 1 if arguments.first is None else arguments.first
    tally = Tally()
    for life in lives(first, arguments.seeds, arguments.kind or list(KINDS)):
        tally.add(try_life(life))
    tally.close()
    return 1 if tally.failed else 0


COMMANDS = {"run": run, "replay": replay, "coverage": coverage, "one-by-one": one_by_one}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        command = commands.add_parser(name)
        command.add_argument("--kind", action="append", choices=list(KINDS))
        if name == "replay":
            command.add_argument("seed", type=int)
            command.add_argument("--wire", action="store_true", help="each message, too")
        else:
            command.add_argument("--seeds", type=int, default=20)
            command.add_argument("--first", type=int)
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        return COMMANDS[arguments.command](arguments)
    return 130


if __name__ == "__main__":
    sys.exit(main())
