"""What is checked for `zdfs health`, and what it means: pure, from what servers say.

Each check is a state, a sentence and what to do about it.  The states, and so the exit status:

    ok        0
    warning   1   it works, and somebody should look at it: safety, room or speed is less than meant
    critical  2   somebody waits or fails, or the next fault may cost data
"""

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from zdfs import addresses, forecast, limits, schema, wire
from zdfs.amounts import lasting, size
from zdfs.ids import Policy, Slot
from zdfs.reasons import Facts, reasons
from zdfs.wire import State

LITTLE = 0.1  # of a disk: so little free is worth a warning
SOON_S = 7 * 86_400.0  # a disk that is full so soon, too
SKEW_S = 0.5  # clocks further apart make times of files jump from mount to mount
FILES = 4096  # open files that a server or a mount may have
OLD_S = 2 * limits.SCRUB_PERIOD_S  # a full scrub that is older
SILENT_MS = 2**60  # above: never heard
ALLOWED = (
    "look at --meta; where the cluster has keys, give --keys DIR, of a key that sees all of the "
    "file system"
)


class Grade(enum.IntEnum):
    """How bad it is; also the exit status."""

    OK = 0
    WARNING = 1
    CRITICAL = 2


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    grade: Grade
    text: str
    advice: str = ""  # what to do; empty when it is ok


class Answered(NamedTuple):
    """What a server said of itself."""

    identity: wire.Identity
    ahead_s: float  # its clock before ours
    within_s: float  # ... with an error of so much


@dataclass(frozen=True, slots=True)
class Seen:
    """All that was asked."""

    facts: Facts
    release: str  # ours
    at_ns: int  # our clock
    answers: Mapping[str, Answered] = field(default_factory=dict)  # by address
    earlier: wire.Status | None = None  # the status of `over_s` before
    over_s: float = 0.0
    engine: str = ""  # of this machine's checksums
    fuse: str = ""  # why this machine can't mount; empty: it can
    files: int = FILES  # that a process here may have open
    spoken: wire.Protocols = wire.ONLY_FIRST  # ours
    misfits: Mapping[str, str] = field(default_factory=dict)  # who can't be spoken with, and why
    refusal: str = ""  # why the metaserver does not tell us; empty: it does, or is silent


def checks(seen: Seen) -> list[Check]:
    """All of them, in the order of the way a call takes."""
    status = seen.facts.status
    found = [*_metaserver(seen)]
    if status is not None:
        found += [
            *_copies(status),
            *_servers(status),
            *_blocked(status),
            *_space(seen, status),
            *_replicas(status),
            *_damage(status),
            *_scrub(seen, status),
            *_pace(seen),
        ]
    return [*found, *_releases(seen), *_clocks(seen), *_engines(seen), *_here(seen)]


def untold(meta: str, refusal: str) -> str:
    """Somebody answers there, and not us."""
    return f"the metaserver at {addresses.short(meta)} does not tell us: {refusal}"


def worst(found: Sequence[Check]) -> Grade:
    """The exit status."""
    return max((check.grade for check in found), default=Grade.OK)


def _metaserver(seen: Seen) -> Iterator[Check]:
    facts = seen.facts
    if seen.refusal:
        yield Check("metaserver", Grade.CRITICAL, untold(facts.meta, seen.refusal), ALLOWED)
        return
    found = [one for one in reasons(facts) if one.kind in ("metaserver", "votes")]
    for one in found:
        yield Check("metaserver", Grade.CRITICAL, one.what, one.unblock)
    if not found:
        shown = addresses.short(facts.meta)
        yield Check("metaserver", Grade.OK, f"the metaserver at {shown} serves")


def _copies(status: wire.Status) -> Iterator[Check]:
    needed, name = status.copies.needed, "metadata copies"
    whole = sum(one.whole for one in status.copies.members)
    if not needed:
        yield Check(
            name, Grade.WARNING, "the metaserver's store is the only one",
            "found the cluster with --meta-copies 2, or back its directory up",
        )  # fmt: skip
    elif whole < needed:
        yield Check(
            name, Grade.CRITICAL, f"{whole} of {needed} copies that a change needs are whole",
            "start the dataservers that are down; a new copy is filled by itself",
        )  # fmt: skip
    else:
        yield Check(name, Grade.OK, f"{whole} whole copies; each change needs {needed}")


def _servers(status: wire.Status) -> Iterator[Check]:
    down = {one.member.slot for one in status.servers if one.member.state is State.DOWN}
    names = ", ".join(_shown(one) for one in status.servers if one.member.slot in down)
    outage = forecast.Outage(frozenset(), frozenset(map(Slot, down)))
    gone = any(fate.unread for fate in forecast.fates(outage, len(status.servers)))
    if not down:
        count = len(status.servers)
        yield Check("dataservers", Grade.OK, f"all {count} are up")
        return
    what = f"{len(down)} of {len(status.servers)} are down ({names})"
    if gone:
        text = f"{what}: blocks that stand only on them can't be read"
    elif status.policy is Policy.ALL:
        text = f"{what}: writes wait (policy all), reads go on"
    else:
        text = f"{what}: writes go on with two copies where they can (policy quorum)"
    grade = Grade.CRITICAL if gone or status.policy is Policy.ALL else Grade.WARNING
    yield Check("dataservers", grade, text, "start them again, each with its store")


def _blocked(status: wire.Status) -> Iterator[Check]:
    waiting = [(mount, one) for mount in status.sessions for one in mount.blocked]
    if not waiting:
        yield Check("writes", Grade.OK, "nobody is known to wait")
        return
    mounts = sorted({f"{mount.host}:{mount.mount}" for mount, _ in waiting})
    since = max(one.since_ms for _, one in waiting) / 1000
    yield Check(
        "writes", Grade.CRITICAL, f"they wait on {', '.join(mounts)}, for {since:.0f} s by now",
        "zdfs why says for whom, and what ends it",
    )  # fmt: skip


def _space(seen: Seen, status: wire.Status) -> Iterator[Check]:
    """The fullest server decides: every block of a file needs three of them."""
    up = [one for one in status.servers if one.member.state is not State.DOWN]
    known = [one for one in up if one.health.total_bytes]
    if not known:
        return
    least = min(known, key=lambda one: one.health.free_bytes / one.health.total_bytes)
    health, shown = least.health, _shown(least)
    share = health.free_bytes / health.total_bytes
    text = f"dataserver {shown} has {size(health.free_bytes)} left, {share:.0%} of its disk"
    left_s = _full_in_s(seen, least)
    if left_s is not None:
        text += f"; at the rate of the last {seen.over_s:.0f} s it is full in {lasting(left_s)}"
    advice = "delete files, or give its disk more room; no restart is needed"
    if health.free_bytes < limits.BLOCK_BYTES:
        yield Check("space", Grade.CRITICAL, f"{text}: what needs room fails (ENOSPC)", advice)
    elif share < LITTLE or (left_s is not None and left_s < SOON_S):
        yield Check("space", Grade.WARNING, text, advice)
    else:
        yield Check("space", Grade.OK, text)


def _full_in_s(seen: Seen, now: wire.ServerStatus) -> float | None:
    """None: it does not fill."""
    for before in seen.earlier.servers if seen.earlier else ():
        if before.member.slot == now.member.slot and seen.over_s > 0:
            grown = now.health.used_bytes - before.health.used_bytes
            return now.health.free_bytes * seen.over_s / grown if grown > 0 else None
    return None


def _replicas(status: wire.Status) -> Iterator[Check]:
    name, advice = "replicas", "nothing: it goes on by itself; zdfs status shows how far it is"
    fine = True
    for one in status.servers:
        job = one.health.rebuild
        if job is not None:
            fine = False
            yield Check(
                name, Grade.WARNING,
                f"dataserver {_shown(one)} gets {job.total - job.done} of {job.total} blocks back",
                advice,
            )  # fmt: skip
        if one.owed:
            fine = False
            yield Check(
                name, Grade.WARNING,
                f"dataserver {_shown(one)} is owed {one.owed} blocks, {size(one.owed_bytes)}",
                "nothing while it is up: it collects them; zdfs debts says of which files",
            )  # fmt: skip
    if fine:
        yield Check(name, Grade.OK, "nothing is being rebuilt, nothing is owed")


def _damage(status: wire.Status) -> Iterator[Check]:
    found = sum(one.health.damaged for one in status.servers)
    repaired = sum(one.health.repaired for one in status.servers)
    if not found:
        yield Check("damage", Grade.OK, "none was ever found")
        return
    where = ", ".join(_shown(one) for one in status.servers if one.health.damaged)
    if repaired < found:
        yield Check(
            "damage", Grade.CRITICAL, f"{found - repaired} of {found} damages are not repaired",
            f"zdfs fsck says which blocks; look at the disks of {where}",
        )  # fmt: skip
    else:
        yield Check("damage", Grade.OK, f"{found} found so far, on {where}; all repaired")


def _scrub(seen: Seen, status: wire.Status) -> Iterator[Check]:
    """That everything was read again not too long ago."""
    passes = {_shown(one): one.health.scrub for one in status.servers}
    old = [
        shown for shown, one in passes.items()
        if one is not None and one.ended_ns and seen.at_ns - one.ended_ns > OLD_S * 1e9
    ]  # fmt: skip
    if old:
        yield Check(
            "scrub", Grade.WARNING,
            f"dataservers {', '.join(old)} have not read all that they hold for two weeks",
            "zdfs scrub does it at once; do they run for long enough?",
        )  # fmt: skip
    else:
        yield Check("scrub", Grade.OK, "what is stored is read again in time")


def _pace(seen: Seen) -> Iterator[Check]:
    slow = [one for one in reasons(seen.facts) if one.kind in ("slow", "mount")]
    for one in slow:
        yield Check("pace", Grade.WARNING, one.what, one.unblock)
    if not slow:
        yield Check("pace", Grade.OK, "no server is slow beside the others, for mounts here")


def _releases(seen: Seen) -> Iterator[Check]:
    """Whether everybody runs the same, and else whose turn it is."""
    for address, text in seen.misfits.items():
        shown = addresses.short(address)
        yield Check("releases", Grade.CRITICAL, f"{shown} can't be spoken with", text)
    found = {seen.release, *(one.identity.release for one in seen.answers.values())}
    spoken = {seen.spoken, *(wire.protocols_of(one.identity) for one in seen.answers.values())}
    older = _older(seen, max(one.newest for one in spoken))
    if not older and len(found) == 1:
        if not seen.misfits:
            text = f"all run {seen.release}, protocol {seen.spoken.newest}"
            yield Check("releases", Grade.OK, text + _held_format(seen))
        return
    each = ", ".join(
        f"{addresses.short(address)}: {_said(one.identity)}"
        for address, one in seen.answers.items()
    )
    text = f"this command is {seen.release}, {seen.spoken.shown()}; {each}"
    yield Check("releases", Grade.WARNING, text + _held_format(seen), _turn(older))


def _said(identity: wire.Identity) -> str:
    return f"{identity.release.partition(' ')[0]}, {wire.protocols_of(identity).shown()}"


def _older(seen: Seen, newest: int) -> list[tuple[str, list[str]]]:
    """Who doesn't speak the newest version, in the order in which they are to be upgraded."""
    names: dict[wire.Role, list[str]] = {wire.Role.DATA: [], wire.Role.META: []}
    for address, one in seen.answers.items():
        if wire.protocols_of(one.identity).newest < newest:
            names[one.identity.role].append(addresses.short(address))
    status = seen.facts.status
    meta = seen.answers.get(seen.facts.meta)
    mounts = []  # of which an older metaserver knows nothing
    if status is not None and meta and wire.protocols_of(meta.identity) != wire.ONLY_FIRST:
        old = [one for one in status.sessions if one.protocols.newest < newest]
        mounts = [f"{one.host}:{one.mount}" for one in old]
    here = ["here"] if seen.spoken.newest < newest else []
    order = [
        ("the dataservers", names[wire.Role.DATA]), ("the metaserver", names[wire.Role.META]),
        ("the mounts", mounts), ("the commands", here),
    ]  # fmt: skip
    return [(who, some) for who, some in order if some]


def _turn(older: Sequence[tuple[str, list[str]]]) -> str:
    """Dataservers first: they keep copies of the metadata, which the metaserver leaves in the old
    format until all of them can read the new one."""
    if not older:
        return "bring all servers and mounts to one release"
    (who, some), *later = older
    turn = f"upgrade {who} {', '.join(some)} next" + ", one at a time" * (len(some) > 1)
    return turn + "".join(f", then {who} {', '.join(some)}" for who, some in later)


def _held_format(seen: Seen) -> str:
    meta = seen.answers.get(seen.facts.meta)
    found = meta.identity.format if meta else 0
    if 0 < found < schema.META_FORMAT:
        return (
            f"; the metadata stays in format {found} until every dataserver has reported from a "
            "release that reads the newer one, and as long as its metaserver has --format"
        )
    return ""


def _clocks(seen: Seen) -> Iterator[Check]:
    """Against ours, as far as the answer's way lets us tell."""
    wrong = [
        f"{addresses.short(address)} by {one.ahead_s:+.1f} s"
        for address, one in seen.answers.items()
        if abs(one.ahead_s) - one.within_s > SKEW_S
    ]
    if wrong:
        yield Check(
            "clocks", Grade.WARNING, f"not this machine's: {', '.join(wrong)}",
            "run chrony or systemd-timesyncd on every machine: files get the metaserver's time",
        )  # fmt: skip
    elif seen.answers:
        yield Check("clocks", Grade.OK, "the servers' are this machine's")


def _engines(seen: Seen) -> Iterator[Check]:
    servers = seen.facts.status.servers if seen.facts.status else ()
    slow = [_shown(one) for one in servers if "pure" in one.health.engine]
    slow += ["this machine"] if "pure" in seen.engine else []
    if slow:
        yield Check(
            "checksums", Grade.WARNING, f"in slow Python on {', '.join(slow)}",
            "install fastcrc there, or crcmod with a C compiler",
        )  # fmt: skip
    else:
        yield Check("checksums", Grade.OK, f"compiled ({seen.engine})")


def _here(seen: Seen) -> Iterator[Check]:
    """What this machine needs, to mount or to serve."""
    if seen.fuse:
        yield Check("fuse", Grade.WARNING, f"this machine can't mount: {seen.fuse}",
                    "install libfuse3 if it is to mount")  # fmt: skip
    else:
        yield Check("fuse", Grade.OK, "this machine can mount")
    if seen.files < FILES:
        yield Check(
            "open files", Grade.WARNING, f"a process here may have {seen.files} open",
            f"raise the limit to {FILES} at least (ulimit -Hn, or LimitNOFILE= of its unit)",
        )  # fmt: skip
    else:
        yield Check("open files", Grade.OK, f"a process here may have {seen.files:,}")


def _shown(one: wire.ServerStatus) -> str:
    return addresses.short(one.member.address)
