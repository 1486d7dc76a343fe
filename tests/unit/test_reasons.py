"""Why something waits: one thing at a time in the way, and nothing when nothing is."""

from dataclasses import replace
from typing import Any

import pytest

from zdfs import limits, processes, wire
from zdfs.ids import BlockNo, Epoch, Incarnation, Ino, Policy, Session, Slot
from zdfs.reasons import Facts, Seen, call_text, narrowed, reasons
from zdfs.wire import LockKind, Span, State

META = "127.0.0.1:2222"
PORTS = (3333, 4444, 5555, 6666)


def status(**states: State) -> wire.Status:
    """Four servers that serve, but for s0=..., s1=..."""
    servers = []
    for slot, port in enumerate(PORTS):
        state = states.get(f"s{slot}", State.SERVING)
        member = wire.Member(Slot(slot), f"127.0.0.1:{port}", b"u" * 16, 0, state, False, b"")
        health = wire.Health(state, 1 << 40, 1 << 39, 0, 0, None, 0, 0, 0, "")
        servers.append(wire.ServerStatus(member, health, 7000, 0, 0, 0))
    return wire.Status(
        b"c" * 16, "", 65536, Policy.ALL, Incarnation(1), tuple(servers), (), (), 0
    )  # fmt: skip


def said(**more: Any) -> wire.Explained:
    """A mount that has nothing to say."""
    quiet = wire.Explained(META, "/mnt", 0, (), 0, (), 0, (), ())
    return replace(quiet, **more)


def facts(**more: Any) -> Facts:
    return replace(Facts(META, status(), mounts=(Seen("/mnt", said()),), here="us"), **more)


def kinds(some: Facts) -> list[str]:
    return [one.kind for one in reasons(some)]


def attributes(start: int = 0) -> wire.Attributes:
    return wire.Attributes(
        Ino(9), 0o100644, 1, 0, 0, 0, 100, 100, 0, 0, 0, 1, Epoch(1), Slot(start), 0
    )


def party(mount: str, since_ms: int = 0, host: str = "us") -> wire.Party:
    return wire.Party(host, mount, since_ms)


def test_nothing() -> None:
    assert kinds(facts()) == []


def test_the_metaserver() -> None:
    (one,) = reasons(facts(status=None, mounts=(Seen("/mnt", said(meta_silent_ms=4200)),)))
    assert (one.kind, one.since_s) == ("metaserver", 4.2) and "zdfs-node meta 2222" in one.unblock
    (one,) = reasons(facts(status=replace(status(), note="waiting for the votes of ...")))
    assert one.kind == "votes" and "waiting for the votes" in one.what


def test_a_mount_that_says_nothing() -> None:
    (one,) = reasons(facts(mounts=(Seen("/far", None),)))
    assert one.kind == "mount" and "/far" in one.what


def test_servers_down_full_skipped() -> None:
    (one,) = reasons(facts(status=status(s2=State.DOWN)))
    assert (one.kind, one.since_s) == ("down", 7.0) and "5555" in one.what
    assert one.unblock.endswith("zdfs-node data 2 3333 4444 5555 6666")
    skipped = status(s2=State.DOWN)
    server = skipped.servers[2]
    member = server.member._replace(skipped=True)
    servers = (*skipped.servers[:2], server._replace(member=member), skipped.servers[3])
    assert kinds(facts(status=replace(skipped, servers=servers))) == []
    full = status()
    health = full.servers[0].health._replace(free_bytes=10)
    servers = (full.servers[0]._replace(health=health), *full.servers[1:])
    (one,) = reasons(facts(status=replace(full, servers=servers)))
    assert one.kind == "full" and "3333" in one.what
    assert kinds(facts(status=status(s1=State.DOWN), writes=False)) == []  # reads go on


def test_a_server_that_only_a_mount_misses() -> None:
    blocked = said(blocked=(wire.Blocked(Slot(1), 9000, 2, False),))
    (one,) = reasons(facts(mounts=(Seen("/mnt", blocked),)))
    assert (one.kind, one.since_s) == ("down", 9.0)
    assert "4444" in one.what and "the metaserver hears it" in one.what
    alone = reasons(facts(status=None, mounts=(Seen("/mnt", blocked),)))
    assert [one.kind for one in alone] == ["metaserver", "down"]


def test_blocks_that_nobody_has() -> None:
    away = status(s0=State.DOWN, s1=State.DOWN, s2=State.DOWN)
    blocks = tuple(map(BlockNo, range(8)))
    some = facts(status=away, attributes=attributes(), blocks=blocks, writes=False)
    (one,) = reasons(some)
    assert one.kind == "unreadable" and "2 of 8 blocks" in one.what and "block 0" in one.what
    assert kinds(replace(some, attributes=attributes(1))) == ["unreadable"]
    assert kinds(replace(some, status=status(s0=State.DOWN, s2=State.DOWN))) == []
    assert kinds(replace(some, reads=False)) == []


def test_a_grant() -> None:
    held = wire.Held1(Ino(9), party("/a", 5000), (party("/b", 3000), party("/c", 1000)))
    (one,) = reasons(facts(disputed=wire.Disputed((held,), (), ())))
    assert (one.kind, one.since_s) == ("grant", 3.0)
    assert "us:/a" in one.what and "us:/b, us:/c" in one.what and "last heard 5 s ago" in one.what
    unwanted = held._replace(wanted=())
    assert kinds(facts(disputed=wire.Disputed((unwanted,), (), ()))) == []
    blocked = (wire.Blocked(Slot(3), 4000, 1, False),)
    session = wire.SessionStatus(Session(1), "us", "/a", blocked)
    stuck = replace(status(s3=State.DOWN), sessions=(session,))
    grant, down = reasons(facts(status=stuck, disputed=wire.Disputed((held,), (), ())))
    assert "wait for dataserver 6666" in grant.what and "6666" in grant.unblock
    assert down.kind == "down"


def lock(mount: str, pid: int, first: int, last: int, exclusive: bool = True) -> wire.Locker:
    span = Span(first, last, exclusive)
    claim = wire.FileLock(Ino(9), LockKind.POSIX, pid, pid, span)
    return wire.Locker(party(mount, host="us" if mount == "/a" else "them"), claim)


def test_a_lock() -> None:
    waiter = lock("/a", 7, 0, limits.FILE_BYTES)
    held = (lock("/a", 7, 50, 60), lock("/b", 8, 5, 9))  # its own is not in its way
    (one,) = reasons(facts(disputed=wire.Disputed((), held, (waiter,))))
    assert one.kind == "lock" and "process 7 (mount /a)" in one.what
    assert "process 8 on them (mount /b)" in one.what and "on all of inode 9" in one.what
    apart = (lock("/b", 8, 5, 9),)
    assert kinds(facts(disputed=wire.Disputed((), apart, (lock("/a", 7, 10, 20),)))) == []
    shared = (lock("/b", 8, 5, 9, False),)
    assert kinds(facts(disputed=wire.Disputed((), shared, (lock("/a", 7, 5, 9, False),)))) == []


def test_a_slow_server() -> None:
    slow = wire.Pace1("127.0.0.1:5555", "write", 300_000, 2_000, 9, 100)
    quick = wire.Pace1("127.0.0.1:3333", "write", 2_000, 2_000, 9, 100)
    some = facts(mounts=(Seen("/mnt", said(paces=(slow, quick))),))
    (one,) = reasons(some)
    assert one.kind == "slow"
    assert "writes are as slow as dataserver 5555: its answers take 300 ms, the others' 2 ms" in (
        one.what
    )
    assert kinds(replace(some, writes=False)) == []


@pytest.mark.parametrize(
    "operation, asked, expected",
    [
        ("write", (), ["down"]),
        ("read", ("Get",), ["unreadable"]),
        ("create", ("Create",), ["down"]),
        ("mkdir", ("Make",), []),
    ],
)
def test_only_what_is_in_the_way_of_a_call(
    operation: str, asked: tuple[str, ...], expected: list[str]
) -> None:
    questions = tuple(wire.Asked(META, one) for one in asked)
    call = wire.Underway(operation, Ino(9), b"", b"/f", 7, 0, 100, questions)
    away = status(s0=State.DOWN, s1=State.DOWN, s2=State.DOWN)
    some = facts(status=away, attributes=attributes(), blocks=(BlockNo(0),))
    found = kinds(narrowed(some, [call]))
    assert sorted(set(found)) == expected
    assert f"{operation} of /f" in call_text(call, META)


def test_what_proc_says_of_a_call() -> None:
    words = "1 0x5 0x7f00 0x40 0x0 0x0 0x0 0x7ffc 0x7f01".split()
    assert processes.named(words, "x86_64") == ("write", 5)
    assert processes.named(words, "aarch64") == ("system call 1", None)
    assert processes.named("257 0xffffff9c 0x7f 0x0".split(), "x86_64") == ("openat", None)
    assert processes.named(["running"], "x86_64") == ("", None)
    assert processes.named("-1 0x7ffc 0x7f01".split(), "x86_64") == ("", None)
    assert processes.named([], "x86_64") == ("", None)
