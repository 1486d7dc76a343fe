"""After a restart of the metaserver a mount says what it holds, and all others wait for that.

One that went on for ever kept everybody from writes and locks for ever, as long as it lived; so did
an honest one that was confined to a directory that had been moved meanwhile.  And who announced, or
gave back the middle of a lock again and again, was counted against no bound: each such message made
the metaserver slower and larger.
"""

import os
from errno import ENOLCK
from typing import Any

import pytest

from tests.issues.test_kept_grant import drive
from tests.issues.test_rights_that_reached_too_far import restarted
from tests.sim.towns import Town
from tests.unit.test_guard import House
from zdfs import limits, wire
from zdfs.calls import Now, Sleep
from zdfs.errors import NoSession, Posix
from zdfs.ids import ROOT, Ino, Session
from zdfs.locks import END
from zdfs.ports import Owner
from zdfs.wire import FileLock, LockKind, Span, Verdict


@pytest.fixture
def house() -> House:
    return House()


def lock(ino: Ino, first: int, last: int, owner: int = 1) -> FileLock:
    return FileLock(ino, LockKind.POSIX, owner, 1, Span(first, last, True))


def announce(
    house: House, key: str, locks: Any = (), openings: Any = (), last: bool = True
) -> None:
    incarnation = house.meta.incarnation
    house.ask(key, wire.Announce(openings, (), tuple(locks), incarnation, last))


def change(house: House, key: str, request: Any) -> Any:
    """Of a mount that knows which metaserver it speaks to."""
    caller = house.caller(key)
    head = caller.head._replace(incarnation=house.meta.incarnation)
    return drive(house.meta.handlers[type(request)](request, caller._replace(head=head)))


def may_lock(house: House, key: str) -> bool:
    answer = change(house, key, wire.Lock(lock(house.file, 0, 9), 0))
    return bool(answer.verdict is Verdict.GRANTED)


class Watch:
    """The task that ends sessions, driven by hand."""

    def __init__(self, house: House) -> None:
        self.house, self.at = house, 1.0
        self.task = house.meta.watch_sessions()
        self.trap = self.task.send(None)

    def passes(self, seconds: float, *alive: str) -> None:
        """Time does; meanwhile these mounts are heard."""
        end = self.at + seconds
        while self.at < end:
            answer: Any = None
            if isinstance(self.trap, Sleep):
                self.at += self.trap.seconds
                self.hear(alive)
            elif isinstance(self.trap, Now):
                answer = int(self.at) if self.trap.wall else self.at
            self.trap = self.task.send(answer)

    def hear(self, alive: tuple[str, ...]) -> None:
        """A heartbeat of each."""
        sessions = self.house.meta.sessions
        for key in alive:
            mount = sessions.mounts.get(self.house.sessions[key])
            if mount is not None:
                sessions.beaten(mount.session, mount.beat + 1, mount.beat, self.at)


# --- who does not come to an end -----------------------------------------------------------------


def test_who_does_not_say_all_that_it_holds_is_not_waited_for_for_ever(house: House) -> None:
    for key in ("ada", "eve"):
        house.caller(key)
    restarted(house)
    watch = Watch(house)
    announce(house, "ada")
    announce(house, "eve", last=False)
    assert not may_lock(house, "ada")
    watch.passes(limits.ANNOUNCE_S - 5, "ada", "eve")
    announce(house, "eve", last=False)
    watch.hear(("eve",))
    assert house.sessions["eve"] in house.meta.sessions.mounts
    watch.passes(10, "ada", "eve")
    assert house.sessions["eve"] not in house.meta.sessions.mounts
    assert house.sessions["ada"] in house.meta.sessions.mounts
    assert may_lock(house, "ada")
    with house.meta.ledger.store.read() as read:
        records = b"".join(bytes(value) for _, value in read.scan(b"v", b"w"))
    assert b"eve@host:/mnt did not say within 60 s" in records, "people are told why"


def test_who_is_heard_late_has_all_the_time_from_then_on(house: House) -> None:
    for key in ("ada", "eve"):
        house.caller(key)
    restarted(house)
    house.meta.sessions.life_s = 1000.0
    watch = Watch(house)
    watch.passes(limits.ANNOUNCE_S + 5, "ada")
    assert house.sessions["ada"] not in house.meta.sessions.mounts
    watch.passes(limits.ANNOUNCE_S - 5, "eve")
    assert house.sessions["eve"] in house.meta.sessions.mounts


def test_nobody_waits_for_a_mount_whose_root_was_moved(house: House) -> None:
    for key in ("inside", "ada"):
        house.caller(key)
    house.change("root", wire.Rename(ROOT, b"in", ROOT, b"moved", 0))
    restarted(house)
    opening = wire.Opening(house.file, 1)
    announce(house, "inside", [lock(house.file, 0, 9)], [opening])
    announce(house, "root")
    announce(house, "ada")
    assert not house.meta.sessions.is_open(house.file), "it is not below its root"
    assert may_lock(house, "ada")


# --- more than there can be ----------------------------------------------------------------------


def test_nobody_announces_more_locks_than_it_can_have(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOCKS", 10)
    monkeypatch.setattr(limits, "LOCKS_SPLIT", 5)
    for key in ("ada", "eve"):
        house.caller(key)
    restarted(house)
    announce(house, "ada", [lock(house.file, 9 * n, 9 * n) for n in range(15)], last=False)
    with pytest.raises(NoSession, match="too many locks"):
        announce(house, "ada", [lock(house.out, 0, 0)])
    assert house.sessions["ada"] not in house.meta.sessions.mounts
    assert not house.meta.locking.locks.files, "what it said goes with it"
    announce(house, "root")
    announce(house, "eve")
    assert may_lock(house, "eve")


def test_nobody_announces_more_locks_of_a_file_than_there_can_be(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOCKS_OF_FILE", 4)
    monkeypatch.setattr(limits, "LOCKS_SPLIT", 2)
    house.caller("ada")
    restarted(house)
    with pytest.raises(NoSession):
        announce(house, "ada", [lock(house.file, 9 * n, 9 * n, owner=n) for n in range(7)])


def test_the_middle_of_a_lock_is_given_back_as_long_as_there_is_room(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOCKS_OF_FILE", 3)
    whole = lock(house.file, 0, END)
    change(house, "ada", wire.Lock(whole, 0))
    for number in (1, 2):
        change(house, "ada", wire.Unlock(lock(house.file, 10 * number, 10 * number)))
    with pytest.raises(Posix) as error:
        change(house, "ada", wire.Unlock(lock(house.file, 30, 30)))
    assert error.value.number == ENOLCK
    change(house, "ada", wire.Unlock(lock(house.file, 0, 9)))  # less needs no room
    change(house, "ada", wire.Unlock(lock(house.file, 30, 30)))
    change(house, "ada", wire.Unlock(whole))
    assert not house.meta.locking.locks.files


def test_what_is_not_there_is_open_nowhere(house: House) -> None:
    gone = tuple(wire.Opening(Ino(2**50 + number), 1) for number in range(10))
    announce(house, "ada", openings=(*gone, wire.Opening(house.file, 1)))
    session: Session = house.sessions["ada"]
    assert list(house.meta.sessions.mounts[session].openings) == [house.file]


def test_a_mount_that_is_refused_holds_what_it_held(seed: int, monkeypatch: Any) -> None:
    """The program is told, and the lock stays one until it is given back as a whole."""
    town = Town(seed)
    town.cluster.heal()
    handle = town.do(town.volume.create(b"/a", 0o644, 0, 0, os.O_RDWR))
    program = Owner(LockKind.POSIX, 1, 1)
    town.do(town.volume.lock(handle, program, Span(0, END, True), False))
    monkeypatch.setattr(limits, "LOCKS_OF_FILE", 1)
    with pytest.raises(Posix) as error:
        town.do(town.volume.unlock(handle, program, Span(5, 5, True)))
    assert error.value.number == ENOLCK
    (owned,) = town.volume.claims.owned.values()
    assert owned.spans == (Span(0, END, True),)
    town.do(town.volume.unlock(handle, program, Span(0, END, False)))
    assert not town.meta.locking.locks.files
