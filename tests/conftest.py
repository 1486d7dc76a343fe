"""What every test stands on: a seed, a deadline instead of a sleep, and nothing left behind.

The **seed** is printed at the top and with every failure; `pytest --seed N` draws the same again,
in Hypothesis too.  A test that draws takes the fixture `seed` or `dice`.

**Nothing left behind**: every process that a test starts inherits ZDFS_TEST_RUN; after each live
test, and at the end of the session, no new process may carry it and no mount may have been added
under pytest's temporary directory.  What is left is ended, by its id, and the test (or the session)
fails.  A test whose cluster belongs to its module is marked `shared`: it is looked after at the end
of the session.
"""

import os
import random
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

from tests.world import world

T = TypeVar("T")
RUN_VARIABLE = "ZDFS_TEST_RUN"
RUN = f"{os.getpid()}-{secrets.token_hex(8)}"
DONE = pytest.StashKey[list[str]]()
LEAK_DEADLINE_S = 20.0  # a mount that was unmounted may take leave of its servers for long

hypothesis.settings.register_profile(
    "zdfs",
    deadline=None,  # the machine may be busy
    derandomize=False,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("zdfs")


BUSY_S = 30.0  # a machine may be so busy: what isn't there sooner isn't missing


def until(condition: Callable[[], T], deadline_s: float = BUSY_S, what: str = "") -> T:
    """Wait until `condition()` is true and return its value; fail after `deadline_s` seconds, at
    least BUSY_S.

    The only place of the tests that sleeps.
    """
    deadline_s = max(deadline_s, BUSY_S)
    end = time.monotonic() + deadline_s
    pause_s = 0.001
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            name = what or getattr(condition, "__name__", "condition")
            pytest.fail(f"not within {deadline_s:g} s: {name}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)


# --- the seed ----------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="draw what an earlier run drew")
    parser.addoption("--lives", type=int, default=60, help="so many fresh simulated lives")
    parser.addoption("--deep", type=int, default=1, help="times as many examples in tests/fuzz")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    chosen = config.getoption("--seed")
    config.option.seed = secrets.randbelow(2**32) if chosen is None else chosen
    if chosen is not None and config.getoption("--hypothesis-seed", None) is None:
        config.option.hypothesis_seed = str(chosen)
    os.environ[RUN_VARIABLE] = RUN
    os.environ["ZDFS_CONFIG"] = os.devnull  # whatever this machine's own file says


def pytest_report_header(config: pytest.Config) -> str:
    return f"zdfs seed: {config.option.seed} (again: pytest --seed {config.option.seed})"


failed = False  # the test that ran last: what it left behind needs no further words


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    global failed
    failed = report.failed if report.when != "teardown" else failed
    if report.failed:
        report.sections.append(("zdfs seed", f"pytest --seed {item.config.option.seed}"))


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Says in one line, for the end of pytest's output, what a test did and how much of it."""

    def say(text: str) -> None:
        request.config.stash.setdefault(DONE, []).append(f"{request.node.name}: {text}")

    return say


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = terminalreporter.config.stash.get(DONE, [])
    if lines:
        terminalreporter.section("what was done")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run."""
    number: int = request.config.option.seed
    return number


@pytest.fixture
def dice(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """A generator of this test's own: the same draws whichever other tests run."""
    return random.Random(f"{seed} {request.node.nodeid}")


# --- nothing left behind -----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _worlds_are_left() -> Iterator[None]:
    yield
    world.leave()


def ours() -> dict[int, str]:
    """Processes that this test session started, with their command lines."""
    found = {}
    mark = f"{RUN_VARIABLE}={RUN}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                found[int(entry.name)] = b" ".join(words).decode(errors="replace")[:200]
        except OSError:  # it ended just now
            continue
    return found


def zdfs_mounts(below: Path) -> frozenset[str]:
    """Where FUSE is mounted under a directory (elsewhere it is not our business)."""
    mounts = set()
    for line in Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines():
        _, where, kind, *_ = line.split(" ")
        where = os.fsencode(where).decode("unicode_escape")  # names are bytes
        if kind.startswith("fuse") and where.startswith(f"{below}/"):
            mounts.add(where)
    return frozenset(mounts)


class Before:
    """What was there before a test, and what is left of it afterwards."""

    def __init__(self, below: Path) -> None:
        self.below = below
        self.mounts = zdfs_mounts(below)
        self.processes = frozenset(ours())

    def _left(self) -> tuple[frozenset[str], dict[int, str]]:
        found = {pid: line for pid, line in ours().items() if pid not in self.processes}
        return zdfs_mounts(self.below) - self.mounts, found

    def fail_on_leaks(self) -> None:
        """Fail on what is left after a moment of patience, and end it, by its id."""
        end = time.monotonic() + LEAK_DEADLINE_S
        while any(self._left()) and time.monotonic() < end:
            time.sleep(0.02)
        mounts, processes = self._left()
        for where in mounts:
            subprocess.run(["umount", "-l", where], check=False, timeout=30)
        for pid in processes:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        left = [f"mount {where}" for where in sorted(mounts)]
        left += [f"process {pid}: {line}" for pid, line in processes.items()]
        if left:
            pytest.fail("left behind: " + "; ".join(left))


@pytest.fixture(autouse=True)
def _nothing_left(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    if "live" not in request.node.path.relative_to(request.config.rootpath).parts:
        yield
        return
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.fail("/dev/fuse can't be opened: live tests need FUSE (modprobe fuse; be root?)")
    if request.node.get_closest_marker("shared") is not None:
        yield
        return
    before = Before(tmp_path_factory.getbasetemp().resolve())
    yield
    before.fail_on_leaks()


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_at_the_end(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = Before(tmp_path_factory.getbasetemp().resolve())
    yield
    before.fail_on_leaks()
