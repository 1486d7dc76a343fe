"""What the page shows of the cluster each second: pure, from what was heard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zdfs import addresses, health, wire
from zdfs.health import Answered, Grade
from zdfs.reasons import Facts, Reason, Seen, reasons
from zdfs.tools import admin

# Asked of the machine that a command runs on, which is not what one looks at here.
ELSEWHERE = {"fuse", "open files"}


@dataclass(frozen=True, slots=True)
class Heard:
    """All that servers said."""

    meta: str  # the metaserver's address
    at_ns: int
    release: str  # ours
    engine: str  # of this machine's checksums
    answers: bool = False  # the metaserver answered just now
    refusal: str = ""  # ... that it would not tell us
    status: wire.Status | None = None  # its newest answer; None: there was none yet
    age_s: float = 0.0  # of that; or since we ask
    disputed: wire.Disputed | None = None
    identities: Mapping[str, Answered] = field(default_factory=dict)
    misfits: Mapping[str, str] = field(default_factory=dict)  # who can't be spoken with, and why
    earlier: wire.Status | None = None  # the status of `over_s` before
    over_s: float = 0.0
    loads: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # by address, as `history`
    last_event: int = 0  # the number of the newest
    mounts: tuple[Seen, ...] = ()  # of the machine that the page comes from, and what they say


def snapshot(heard: Heard) -> dict[str, Any]:
    """With keys that the page relies on."""
    status = heard.status
    checks = _checks(heard)
    return {
        "metaserver": {
            "address": addresses.short(heard.meta),
            "answers": heard.answers,
            "refusal": heard.refusal,
            "age_s": round(heard.age_s, 1),
        },
        "known": status is not None,
        "cluster": status.cluster.hex() if status else "",
        "release": heard.release,
        "note": status.note if status else "",
        "policy": status.policy.name.lower() if status else "",
        "block_size": status.block_bytes if status else 0,
        "servers": _servers(heard, status) if status else [],
        "mounts": admin.facts(status)["mounts"] if status else [],
        "blocked": admin.facts(status)["writes_blocked"] if status else [],
        "reasons": [
            {"kind": one.kind, "what": one.what, "since_s": one.since_s, "unblock": one.unblock}
            for one in _reasons(heard)
        ],
        "health": {
            "state": health.worst(checks).name.lower(),
            "bad": sum(one.grade > Grade.OK for one in checks),
            "checks": [
                {"name": c.name, "state": c.grade.name.lower(), "text": c.text, "advice": c.advice}
                for c in sorted(checks, key=lambda one: -one.grade)
            ],
        },
        "last_event": heard.last_event,
    }


def _facts(heard: Heard) -> Facts:
    """What holds now: of a metaserver that is silent, nothing but that."""
    if not heard.answers:
        return Facts(heard.meta, None, mounts=heard.mounts)
    return Facts(heard.meta, heard.status, disputed=heard.disputed, mounts=heard.mounts)


def _reasons(heard: Heard) -> list[Reason]:
    if not heard.refusal:
        return reasons(_facts(heard))
    return [Reason("refused", health.untold(heard.meta, heard.refusal), None, health.ALLOWED)]


def _checks(heard: Heard) -> list[health.Check]:
    seen = health.Seen(
        _facts(heard), heard.release, heard.at_ns, heard.identities if heard.answers else {},
        heard.earlier, heard.over_s, heard.engine, spoken=wire.spoken(), misfits=heard.misfits,
        refusal=heard.refusal,
    )  # fmt: skip
    elsewhere = ELSEWHERE if heard.mounts else ELSEWHERE | {"pace"}  # which mounts know
    return [one for one in health.checks(seen) if one.name not in elsewhere]


def _servers(heard: Heard, status: wire.Status) -> list[dict[str, Any]]:
    """Each with all that `zdfs status` says of it, its scrub and its load."""
    shown: Sequence[dict[str, Any]] = admin.facts(status)["servers"]
    copies = {one.slot for one in status.copies.members}
    return [
        one
        | {
            "scrub": _scrub(server.health.scrub),
            "load": heard.loads.get(server.member.address),
            "keeps_names": server.member.slot in copies,
        }
        for one, server in zip(shown, status.servers)
    ]


def _scrub(scrub: wire.ScrubStatus | None) -> dict[str, Any] | None:
    if scrub is None:
        return None
    return {
        "underway": bool(scrub.began_ns),
        "began_ns": scrub.began_ns,
        "ended_ns": scrub.ended_ns,
        "done_bytes": scrub.done_bytes,
        "total_bytes": scrub.total_bytes,
        "bytes_per_s": scrub.bytes_per_s,
        "found": scrub.damaged + scrub.missing + scrub.excess,
        "healed": scrub.healed,
    }
