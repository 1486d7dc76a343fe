"""One case on a cluster: a load before, during and after the fault; what came of it, judged.

    with stage.story(case) as story:
        story.fault()               the fault begins now
        cluster.kill("data-1")
        story.watch(3)              who must go on does; what is said of it is noted
        cluster.start_data(1)
        story.over()                no fault any more: everybody gets on, the cluster is whole

At the end of the block the load is stopped, every read that was made and a cold look at every file
are compared with what was acknowledged (`load`), logs are looked through, fsck looks at everything,
and the row of the case for docs/TESTING.md is written (`table`).
"""

import errno
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pytest

from tests import conftest
from tests.conftest import until
from tests.live.chaos import load, table
from tests.live.chaos.cases import NAME, READ, WRITE, Case
from tests.live.cluster import Cluster
from tests.live.spaces import SpacedCluster

SCRIPT = Path(load.__file__)
PATIENCE_S = 90.0  # no call may take longer once the fault is over: a hang
ENOUGH = 3  # calls that make "goes on"
BLOCK = load.BLOCK
ROLES = {READ: "reads", WRITE: "writes", NAME: "names"}
LATE_S = 2.0  # for the words of the table only: what took longer waited

SAID = [  # (what a log says, how the table says it), in this order
    (r"index can't be trusted", "index set aside and made anew from the log"),
    (r"all kept in set-aside", "store set aside, refilled by its neighbours"),
    (r": cut at", "unacknowledged tail cut"),
    (r"damaged at \d+: .*skipped", "damage in the log skipped"),
    (r"old: ", "known as an older copy: it reconciles"),
    (r"rebuilding \d+ blocks from the neighbours", "blocks come from its neighbours"),
    (r"damage: ", "damage found"),
    (r"repaired: ", "repaired from another copy"),
    (r"the node stops", "the node stops, says why and what to do"),
    (r"fell silent: it has ended", "session of the mount ended"),
    (r"opening a new one", "mount takes a new session"),
    (r"waiting for the metaserver", "mount says that it waits for the metaserver"),
    (r"does not answer; asking the others", "reads ask the others first"),
    (r"writes wait for dataserver", "log and status say whom writes wait for"),
    (r"gives way", "old metaserver gives way"),
]


class Load:
    """The programs at work on the mounts."""

    def __init__(self, stage: "Stage", mount: Path, other: Path):
        self.stage = stage
        self.journals = {
            READ: stage.journal("read"),
            WRITE: stage.journal("write"),
            NAME: stage.journal("name"),
        }
        self.before = {role: len(load.calls(path)) for role, path in self.journals.items()}
        self.programs = {
            READ: start("read", other, self.journals[READ]),
            WRITE: start("write", mount, self.journals[WRITE]),
            NAME: start("name", mount, self.journals[NAME]),
        }

    def calls(self, role: str) -> list[load.Call]:
        """What a role did in this case."""
        return load.calls(self.journals[role])[self.before[role] :]

    def done(self, role: str, since: float) -> int:
        """Calls that were begun after then and succeeded."""
        return sum(one.ok and one.begin >= since for one in self.calls(role))

    def wait(self, roles: tuple[str, ...], since: float, when: str) -> None:
        """Until so many calls succeeded."""
        for role in roles:
            until(
                lambda: self.done(role, since) >= ENOUGH,
                PATIENCE_S,
                f"{ROLES[role]} go on {when}",
            )

    def stop(self) -> None:
        """Each ends after its call."""
        for program in self.programs.values():
            assert program.stdin is not None
            with suppress(BrokenPipeError):
                program.stdin.close()
        for role, program in self.programs.items():
            assert program.wait(PATIENCE_S) == 0, f"{role} failed"

    def kill(self) -> None:
        """Whatever they are at."""
        for program in self.programs.values():
            program.kill()
            program.wait(30)


def start(role: str, folder: Path, journal: Path) -> "subprocess.Popen[bytes]":
    """One of the load's programs."""
    words = [sys.executable, str(SCRIPT), role, str(folder), str(journal)]
    return subprocess.Popen(words, stdin=subprocess.PIPE)


class Stage:
    """A cluster, filled with known files, that serves one case after the other."""

    def __init__(self, make: Callable[[], Cluster]):
        self.cluster = make()
        self.spoiled = False
        try:
            self.cluster.start()
            self.run("fill", "mnt")
        except BaseException:
            self.cluster.unchecked = "it never was filled"
            self.cluster.close()
            raise

    def journal(self, role: str) -> Path:
        """What a role did, over all cases on this cluster."""
        return self.cluster.folder / f"{role}.journal"

    def run(self, role: str, mount: str) -> list[load.Call]:
        """Mount, let a program that ends by itself do its work, unmount; what it did."""
        where = self.cluster.mount(mount)
        journal = self.journal(role)
        before = len(load.calls(journal))
        program = start(role, where, journal)
        try:
            assert program.wait(PATIENCE_S) == 0, f"{role} failed"
        finally:
            program.kill()
            program.wait(30)
            assert program.stdin is not None
            program.stdin.close()
        self.cluster.unmount(where)
        return load.calls(journal)[before:]

    def story(self, case: Case) -> "Story":
        """Begin a case."""
        return Story(self, case)

    def judge(self, reads: list[load.Call], listings: list[load.Call]) -> None:
        """Fails on what must never be seen."""
        wrong = load.wrong_reads(load.calls(self.journal("write")), reads)
        wrong += load.wrong_names(load.calls(self.journal("name")), listings)
        assert not wrong, "WRONG: " + "; ".join(wrong[:10])

    def cold_look(self) -> list[load.Call]:
        """Every file from a mount that remembers nothing, judged."""
        seen = self.run("check", "cold")
        self.judge(seen, seen)
        return seen

    def close(self) -> None:
        """With an fsck, as every live test."""
        if self.spoiled:
            self.cluster.unchecked = "the test failed"
        try:
            self.cluster.close()
        finally:
            if self.spoiled:  # a mount that was killed and not mounted again
                for name in ("mnt", "other", "cold"):
                    where = str(self.cluster.folder / name)
                    subprocess.run(["umount", "-l", where], capture_output=True, timeout=30)


class Story:
    """What happens in one case."""

    def __init__(self, stage: Stage, case: Case):
        self.stage, self.cluster, self.case = stage, stage.cluster, case
        self.began = self.ended = 0.0
        self.did: set[str] = set()
        self.blocked: set[int] = set()  # slots for which writes waited, as status said

    def __enter__(self) -> "Story":
        self.stage.spoiled = True  # until it went well
        self.starts = {path: path.stat().st_size for path in self.cluster.folder.glob("*.log")}
        self.mount, self.other = self.cluster.mount("mnt"), self.cluster.mount("other")
        self.load = Load(self.stage, self.mount, self.other)
        self.load.wait((READ, WRITE, NAME), 0.0, "before the fault")
        return self

    def fault(self) -> None:
        """From here on."""
        self.began = self.began or time.monotonic()

    def watch(
        self,
        seconds: float,
        meta: bool = True,
        says: int | None = None,
        slow: int | None = None,
    ) -> None:
        """Let it last, until those who must go on did, until status `says` for which slot writes
        wait, and until `zdfs why` says which one is `slow`; note what else is said (unless `meta`
        can't answer)."""
        end = time.monotonic() + seconds

        def later() -> bool:
            if meta:
                self._note()
            return (
                time.monotonic() >= end
                and (says is None or says in self.blocked)
                and (slow is None or self._named_slow(slow))
            )

        until(later, seconds + PATIENCE_S, "it lasts, and is told: whom writes wait for")
        self.load.wait(self.case.goes_on, self.began, "while the fault lasts")
        self.ended = time.monotonic()

    def _note(self) -> None:
        facts = self.cluster.status()
        self.blocked |= {one["slot"] for one in facts.get("writes_blocked", [])}
        if self.blocked:
            self.did.add("log and status say whom writes wait for")
        if any(server["state"] == "down" for server in facts.get("servers", [])):
            self.did.add("down in the cluster map")

    def _named_slow(self, slot: int) -> bool:
        reasons = [one for one in self.cluster.why()["reasons"] if one["kind"] == "slow"]
        named = any(str(self.cluster.ports[slot]) in one["what"] for one in reasons)
        if named:
            self.did.add("zdfs why says which server is slow")
        return named

    def over(self) -> None:
        """Nothing is wrong any more: everything must get on, by itself."""
        self.ended = self.ended or time.monotonic()
        self.cluster.wait_serving(PATIENCE_S)
        self.load.wait((READ, WRITE, NAME), time.monotonic(), "after the fault")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if error is not None:
            self.load.kill()
            print(*(f"{path.name}: {text[-1500:]}" for path, text in self.logs()), sep="\n")
            return
        try:
            self.load.stop()
        finally:
            self.load.kill()
        self._judge()
        for mount in (self.mount, self.other):
            self.cluster.unmount(mount)
        cold = self.stage.cold_look()
        assert all(one.ok for one in cold), [one for one in cold if not one.ok][:5]
        self.cluster.check()
        self.look_through_logs()
        table.record(self.case, self.words(), self.deeds())
        self.stage.spoiled = False

    def _judge(self) -> None:
        self.stage.judge(self.load.calls(READ), self.load.calls(NAME))
        for role, call in self._errors():
            name = errno.errorcode.get(call.error, "no end")
            assert name in self.case.errors, f"{role}: {name} from {call}"

    def _errors(self) -> list[tuple[str, load.Call]]:
        return [(role, one) for role in ROLES for one in self.load.calls(role) if not one.ok]

    # --- what is said of it ----------------------------------------------------------------------

    def words(self) -> str:
        """What the application saw."""
        by: dict[str, list[str]] = {}
        for role, shown in ROLES.items():
            by.setdefault(self._verdict(role), []).append(shown)
        parts = [f"{' and '.join(roles)} {verdict}" for verdict, roles in by.items()]
        errors: dict[str, set[str]] = {}
        for role, call in self._errors():
            errors.setdefault(errno.errorcode[call.error], set()).add(ROLES[role])
        parts += [f"{name} for {' and '.join(sorted(who))}" for name, who in sorted(errors.items())]
        return "; ".join(parts)

    def _verdict(self, role: str) -> str:
        calls = [c for c in self.load.calls(role) if c.end >= self.began and c.begin <= self.ended]
        inside = sum(one.ok and one.begin >= self.began and one.end <= self.ended for one in calls)
        longest = max((one.end - one.begin for one in calls), default=0.0)
        if inside >= ENOUGH:
            return "go on" if longest <= LATE_S else "go on after a timeout"
        return "wait" if longest > LATE_S else "hardly notice"

    def logs(self) -> list[tuple[Path, str]]:
        """What was logged since the case began."""
        found = []
        for path in sorted(self.cluster.folder.glob("*.log")):
            text = path.read_bytes()[self.starts.get(path, 0) :].decode(errors="replace")
            found.append((path, text))
        return found

    def look_through_logs(self) -> None:
        """Nobody met the unexpected."""
        for path, text in self.logs():
            for word in ("Traceback", "a bug: please", "Fatal Python error"):
                assert (
                    word not in text
                ), f"{path.name}: {text[max(0, text.find(word) - 500):][:2500]}"

    def deeds(self) -> str:
        """What the cluster did."""
        logged = "\n".join(text for _, text in self.logs())
        found = [words for pattern, words in SAID if re.search(pattern, logged)]
        found += sorted(self.did - set(found))
        return "; ".join([*dict.fromkeys(found), "whole at the end"])


def make_stage(
    factory: pytest.TempPathFactory, name: str, kind: type[Cluster] = Cluster, **more: object
) -> Callable[[], Stage]:
    """How to make a stage: four servers, small blocks."""

    def make() -> Stage:
        folder = factory.mktemp(name)
        return Stage(lambda: kind(folder, 4, block_size=BLOCK, **more))  # type: ignore[arg-type]

    return make


def spaced(factory: pytest.TempPathFactory, name: str) -> Callable[[], Stage]:
    """A stage in network namespaces."""
    return make_stage(factory, name, SpacedCluster)


class Theatre:
    """The stage of a module; a new one after a case that failed."""

    def __init__(self, make: Callable[[], Stage]):
        self.make = make
        self._stage: Stage | None = None

    def stage(self) -> Stage:
        """One that nobody spoiled."""
        if self._stage is not None and self._stage.spoiled:
            stage, self._stage = self._stage, None
            stage.close()
        if self._stage is None:
            self._stage = self.make()
        return self._stage

    def close(self) -> None:
        """The end of the module."""
        if self._stage is not None:
            conftest.failed = False  # of the last test only; `spoiled` knows
            self._stage.close()
