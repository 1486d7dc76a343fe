"""Each check alone: what it finds, how bad that is, and that it says what to do."""

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.test_reasons import META, facts, status
from zdfs import wire
from zdfs.health import FILES, OLD_S, Answered, Check, Grade, Seen, checks, worst
from zdfs.ids import Policy, Session, Slot
from zdfs.tools import checkup
from zdfs.wire import State

COPIES = wire.Copies(2, tuple(wire.CopyStatus(Slot(slot), True, 0) for slot in range(3)))
NOW_NS = 10**18
DATA = "127.0.0.1:3333"


def well(**states: State) -> wire.Status:
    """A status with nothing wrong, but for the states."""
    return replace(status(**states), copies=COPIES)


def seen(found: wire.Status | None = None, **more: Any) -> Seen:
    there = Seen(facts(status=found or well()), "1.0", NOW_NS, engine="fastcrc")
    return replace(there, **more)


def bad(one: Seen) -> list[Check]:
    """What is not ok; each of these says what to do."""
    found = [check for check in checks(one) if check.grade > Grade.OK]
    assert all(check.advice for check in found)
    return found


def with_health(slot: int = 0, **changes: Any) -> wire.Status:
    """One server's health is other."""
    found = well()
    server = found.servers[slot]
    servers = list(found.servers)
    servers[slot] = server._replace(health=server.health._replace(**changes))
    return replace(found, servers=tuple(servers))


def answered(release: str = "1.0", ahead_s: float = 0.0, within_s: float = 0.01) -> Answered:
    identity = wire.Identity(
        wire.Role.DATA, release, b"", b"u" * 16, Slot(0), State.SERVING, False, b"", "", ""
    )
    return Answered(identity, ahead_s, within_s)


def test_all_is_well() -> None:
    found = checks(seen(answers={META: answered(), DATA: answered()}))
    assert [one for one in found if one.grade or one.advice] == []
    assert worst(found) is Grade.OK
    names = {one.name for one in found}
    assert names == {
        "metaserver", "metadata copies", "dataservers", "writes", "space", "replicas", "damage",
        "scrub", "pace", "releases", "clocks", "checksums", "fuse", "open files",
    }  # fmt: skip


def test_a_metaserver_that_does_not_answer() -> None:
    found = checks(replace(seen(), facts=facts(status=None)))
    assert worst(found) is Grade.CRITICAL
    assert "zdfs-node meta 2222" in found[0].advice
    assert {one.name for one in found} >= {"metaserver", "fuse"}  # what can be said is said


def test_a_metaserver_that_waits() -> None:
    (one,) = bad(seen(replace(well(), note="waiting for votes")))
    assert (one.name, one.grade) == ("metaserver", Grade.CRITICAL) and "votes" in one.text


@pytest.mark.parametrize(
    ("policy", "down", "grade", "word"),
    [
        (Policy.ALL, (2,), Grade.CRITICAL, "writes wait"),
        (Policy.QUORUM, (2,), Grade.WARNING, "two copies"),
        (Policy.QUORUM, (1, 2, 3), Grade.CRITICAL, "can't be read"),
    ],
)
def test_servers_that_are_down(
    policy: Policy, down: tuple[int, ...], grade: Grade, word: str
) -> None:
    states = {f"s{slot}": State.DOWN for slot in down}
    (one,) = bad(seen(replace(well(**states), policy=policy)))
    assert (one.name, one.grade) == ("dataservers", grade) and word in one.text
    assert "5555" in one.text


def test_copies_of_the_metadata() -> None:
    none = replace(well(), copies=wire.Copies(0, ()))
    assert [(one.name, one.grade) for one in bad(seen(none))] == [
        ("metadata copies", Grade.WARNING)
    ]
    filled = wire.Copies(2, (wire.CopyStatus(Slot(0), True, 0), wire.CopyStatus(Slot(1), False, 9)))
    (one,) = bad(seen(replace(well(), copies=filled)))
    assert one.grade is Grade.CRITICAL and "1 of 2" in one.text


def test_writes_that_wait() -> None:
    blocked = wire.Blocked(Slot(1), 7000, 2, False)
    mount = wire.SessionStatus(Session(1), "us", "/mnt", (blocked,))
    (one,) = bad(seen(replace(well(), sessions=(mount,))))
    assert (one.name, one.grade) == ("writes", Grade.CRITICAL)
    assert "us:/mnt" in one.text and "7 s" in one.text


def test_little_room_and_none() -> None:
    (one,) = bad(seen(with_health(1, free_bytes=1 << 35)))
    assert (one.name, one.grade) == ("space", Grade.WARNING)
    assert "4444" in one.text and "32.0 GiB" in one.text
    found = bad(seen(with_health(1, free_bytes=100)))
    assert [one.grade for one in found] == [Grade.CRITICAL] and "ENOSPC" in found[0].text


def test_when_the_disk_will_be_full() -> None:
    fast = seen(with_health(0, used_bytes=1 << 30, free_bytes=1 << 38), earlier=well(), over_s=2.0)
    (one,) = bad(fast)
    assert one.name == "space" and "full in 9 minutes" in one.text  # 256 GiB at 0.5 GiB/s
    assert bad(replace(fast, earlier=fast.facts.status)) == []  # it does not grow


def test_what_is_rebuilt_and_owed() -> None:
    job = wire.Rebuild(30, 100, 1, 2, 3, 4)
    (one,) = bad(seen(with_health(2, rebuild=job)))
    assert (one.name, one.grade) == ("replicas", Grade.WARNING) and "70 of 100" in one.text
    found = well()
    owed = found.servers[3]._replace(owed=5, owed_bytes=1 << 20, owed_since_ns=1)
    (one,) = bad(seen(replace(found, servers=(*found.servers[:3], owed))))
    assert "6666" in one.text and "owed 5 blocks" in one.text


def test_damage_counts_until_it_is_repaired() -> None:
    (one,) = bad(seen(with_health(0, damaged=3, repaired=1)))
    assert (one.name, one.grade) == ("damage", Grade.CRITICAL) and "2 of 3" in one.text
    assert bad(seen(with_health(0, damaged=3, repaired=3))) == []


def test_a_scrub_that_is_too_old() -> None:
    def scrub(ended_ns: int) -> wire.ScrubStatus:
        return wire.ScrubStatus(0, ended_ns, 0, 0, 0, 0, 0, 0, 0)

    long_ago = NOW_NS - int(OLD_S * 1e9) - 1
    (one,) = bad(seen(with_health(0, scrub=scrub(long_ago))))
    assert (one.name, one.grade) == ("scrub", Grade.WARNING)
    assert bad(seen(with_health(0, scrub=scrub(long_ago + 2)))) == []
    assert bad(seen(with_health(0, scrub=scrub(0)))) == []  # it is young


def test_mixed_releases() -> None:
    (one,) = bad(seen(answers={META: answered(), DATA: answered("0.9")}))
    assert one.name == "releases" and "3333: 0.9" in one.text


def speaks(role: wire.Role, newest: int, release: str = "1.0") -> Answered:
    one = answered(release)
    protocols = wire.Protocols(4, newest)
    return one._replace(identity=replace(one.identity, role=role, protocols=protocols))


def test_whose_turn_it_is_while_versions_are_mixed() -> None:
    ours = wire.Protocols(4, 5)
    meta, data = speaks(wire.Role.META, 4), speaks(wire.Role.DATA, 4)
    (one,) = bad(seen(spoken=ours, answers={META: meta, DATA: data}))
    assert one.name == "releases" and one.grade is Grade.WARNING
    assert "this command is 1.0, protocols 4 to 5; 2222: 1.0, protocol" in one.text
    assert one.advice == "upgrade the dataservers 3333 next, then the metaserver 2222"
    (one,) = bad(seen(spoken=wire.ONLY_FIRST, answers={META: speaks(wire.Role.META, 5)}))
    assert one.advice == "upgrade the commands here next"


def test_mounts_that_are_older_are_named_by_a_metaserver_that_knows() -> None:
    old = wire.SessionStatus(Session(1), "us", "/old", ())
    new = wire.SessionStatus(Session(2), "us", "/new", (), wire.Protocols(4, 5))
    found = replace(well(), sessions=(old, new))
    ours = wire.Protocols(4, 5)
    (one,) = bad(seen(found, spoken=ours, answers={META: speaks(wire.Role.META, 5)}))
    assert one.advice == "upgrade the mounts us:/old next"
    (one,) = bad(seen(found, spoken=ours, answers={META: speaks(wire.Role.META, 4)}))
    assert one.advice == "upgrade the metaserver 2222 next"


def test_a_store_that_is_held_back_is_told() -> None:
    ours = wire.Protocols(4, 5)
    meta = speaks(wire.Role.META, 5)
    meta = meta._replace(identity=replace(meta.identity, format=3))
    answers = {META: meta, DATA: speaks(wire.Role.DATA, 4)}
    (one,) = bad(seen(spoken=ours, answers=answers))
    assert "the metadata stays in format 3 until every dataserver has reported" in one.text
    answers[DATA] = speaks(wire.Role.DATA, 5)  # all are new, and it was asked for
    (one,) = [c for c in checks(seen(spoken=ours, answers=answers)) if c.name == "releases"]
    assert one.grade is Grade.OK and one.text.endswith("as long as its metaserver has --format")


def test_who_can_not_be_spoken_with_is_critical() -> None:
    (one,) = bad(seen(misfits={DATA: "upgrade it"}))
    assert (one.name, one.grade, one.advice) == ("releases", Grade.CRITICAL, "upgrade it")


def test_clocks_as_far_as_one_can_tell() -> None:
    (one,) = bad(seen(answers={DATA: answered(ahead_s=-2.0)}))
    assert one.name == "clocks" and "3333 by -2.0 s" in one.text
    assert bad(seen(answers={DATA: answered(ahead_s=2.0, within_s=1.6)})) == []


def test_this_machine() -> None:
    assert [one.name for one in bad(seen(engine="crcmod (pure Python)"))] == ["checksums"]
    assert [one.name for one in bad(seen(fuse="no libfuse3"))] == ["fuse"]
    (one,) = bad(seen(files=1024))
    assert one.name == "open files" and str(FILES) in one.advice


def test_as_text_and_as_facts() -> None:
    found = checks(seen(well(s2=State.DOWN)))
    text = checkup.text(found)
    lines = text.splitlines()
    assert lines[-1] == f"1 of {len(found)} checks ask for something"
    assert lines[-4].startswith("CRITICAL  dataservers: ") and "what to do" in lines[-3]
    shown = checkup.facts(found)
    assert shown["state"] == "critical" and len(shown["checks"]) == len(found)
    assert set(shown["checks"][0]) == {"name", "state", "text", "advice"}
    assert checkup.text(checks(seen())).endswith("all is well")
