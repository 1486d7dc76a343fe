"""`zdfs why PATH|PID`: why is this call blocked or failed; since when; what would unblock it.

    PATH   a file: who else has it, the servers of its blocks, the calls on it that wait here
    PID    a program of this machine: the calls of its threads, as the mount knows them; what it
           waits for inside the kernel, from proc
    -      nothing given: all that is in anybody's way

Asked are the metaserver (disputes, status), each mount of this machine (`insight`, under a time
limit) and the kernel.  Mounts of other machines are only known by what they told the metaserver.
Nothing here waits for what is stuck: paths are looked at by their text, mounts are asked by a name
that the kernel passes on without a look at the root.
"""

import argparse
import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from zdfs import addresses, arguments, blockmap, insight, limits, processes, progress, records, wire
from zdfs.amounts import printable
from zdfs.calls import Peer, call
from zdfs.errors import Failure, Interrupted, Mistrusted, Posix, StartError
from zdfs.ids import BlockNo, Ino
from zdfs.link import Link
from zdfs.processes import Thread
from zdfs.reasons import Facts, Reason, Seen, call_text, narrowed, reasons, refusal_text
from zdfs.tools import visiting
from zdfs.tools.admin import moment

MOUNT_S = 3.0  # a mount that says nothing for so long is stuck itself
BLOCKS = 65_536  # of a file's map that are looked at


def options(commands: Any) -> None:
    """Its arguments, for argparse."""
    parser = commands.add_parser("why", help="why a call is blocked or failed, and what to do")
    parser.add_argument(
        "subject", nargs="?", metavar="PATH|PID",
        help="a path inside the file system or on a mount of this machine, or a process here; "
        "without it: all that waits",
    )  # fmt: skip
    visiting.common(parser)
    parser.set_defaults(do=command)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Ask everybody and say it."""
    with progress.Shown(chosen.json, "asking the metaserver and the mounts of this machine"):
        facts = why(link, chosen.subject, chosen.meta, visiting.configured(chosen))
    print(json.dumps(facts, indent=2) if chosen.json else text(facts))
    return 0


# --- asking ------------------------------------------------------------------------------------


def why(
    link: Link, subject: str | None, meta: str | None, otherwise: str = arguments.META
) -> dict[str, Any]:
    """All of it, as JSON has it; `otherwise`: the metaserver where no mount says one.

    StartError: there is no such process, file or metaserver.
    """
    pid = _pid(subject)
    if subject is not None and pid is None:
        return _of_path(link, subject, meta, otherwise)
    threads = [] if pid is None else processes.threads(pid)
    if pid is not None and not threads:
        raise StartError(f"there is no process {pid} here (a file of that name: ./{pid})")
    seen = see(_sources(meta))
    address = addresses.parse(meta or _meta_of(threads, seen, addresses.parse(otherwise)))
    facts = Facts(address, status(link, address), mounts=_of(address, seen))
    if pid is None:
        facts = replace(facts, disputed=_disputed(link, facts, Ino(0)))
        return _shown("everything", facts, _calls(facts.mounts), [], [])
    tids = {thread.tid for thread in threads}
    calls = [one for one in _calls(facts.mounts) if one.pid in tids]
    ino = next((one.ino for one in calls), None) or _ino_of(threads)
    facts = _with_file(link, facts, ino)
    told = _shown(f"process {pid}", narrowed(facts, calls), calls, threads, [])
    told["failures"] = _failures(facts, lambda one: one.pid in tids)
    told["notes"] = _notes(threads, calls, facts)
    if not calls and not any(thread.mount for thread in threads):
        told["reasons"] = []  # whatever is wrong elsewhere is not in this process's way
    return told


def _of_path(link: Link, subject: str, meta: str | None, otherwise: str) -> dict[str, Any]:
    path, source = visiting.inside(subject, None)
    address = visiting.named(meta, source) or addresses.parse(otherwise)
    facts = Facts(address, status(link, address), mounts=tuple(see({address})))
    ino = None
    if facts.status is not None and not facts.status.note:
        ino = _find(link, address, path)
    else:  # nobody looks names up: what mounts know of this path
        known = [one.ino for one in _calls(facts.mounts) if _about(one, None, path)]
        ino = known[0] if known else None
    facts = _with_file(link, facts, ino)
    shown = os.fsdecode(path)
    calls = [one for one in _calls(facts.mounts) if _about(one, ino, path)]
    told = _shown(shown, facts, calls, [], [] if ino else [_unknown(facts, shown)])
    told["failures"] = _failures(facts, lambda one: _about(one, ino, path))
    return told


def _unknown(facts: Facts, shown: str) -> str:
    return f"whether {shown} is there can't be told while the metaserver does not serve"


def _pid(subject: str | None) -> int | None:
    return int(subject) if subject is not None and subject.isdecimal() else None


def _about(one: wire.Underway | wire.Refusal, ino: Ino | None, path: bytes) -> bool:
    cut = len(one.path) == limits.PATH_SHOWN
    named = one.path == path or (cut and path.endswith(one.path))
    return named or (ino is not None and one.ino == ino and not one.name)


def _sources(meta: str | None) -> set[str] | None:
    """Only mounts of this metaserver; None: of any."""
    return None if meta is None else {addresses.parse(meta)}


def _meta_of(threads: Sequence[Thread], seen: Sequence[Seen], otherwise: str) -> str:
    """The metaserver of the mount that a process is on; else the configured one, unless only others
    are mounted here: then the first of these."""
    on = {thread.mount for thread in threads if thread.mount}
    tids = {thread.tid for thread in threads}
    told = [(one.directory, one.said) for one in seen if one.said is not None]
    for directory, said in told:
        if directory in on or any(each.pid in tids for each in said.calls):
            return said.meta
    here = [said.meta for _, said in told]
    return here[0] if here and otherwise not in here else otherwise


def _of(meta: str, seen: Sequence[Seen]) -> tuple[Seen, ...]:
    """Mounts of this metaserver: another cluster's mount is in nobody's way here, whatever its
    inodes' numbers are.  Of one that does not answer nobody knows whose it is but the kernel."""
    sources = {one.directory: addresses.parse(one.source) for one in processes.mounts().values()}
    return tuple(one for one in seen if sources.get(one.directory, meta) == meta)


def see(sources: set[str] | None, asked: dict[str, threading.Thread] | None = None) -> list[Seen]:
    """What each mount of this machine says.  `asked`: kept by who asks again and again, so that a
    mount that hangs holds one thread, and not one more each time."""
    asked = {} if asked is None else asked
    wanted = [
        one
        for one in dict.fromkeys(processes.mounts().values())
        if sources is None or addresses.parse(one.source) in sources
    ]
    said: dict[str, wire.Explained] = {}

    def ask(directory: str) -> None:
        try:
            packed = os.getxattr(directory, os.fsdecode(insight.NAME))
            said[directory] = records.unpack(wire.Explained, packed)
        except (OSError, records.BadRecord):
            return  # its connection is gone, or it is of another release

    for ended in [name for name, thread in asked.items() if not thread.is_alive()]:
        del asked[ended]
    fresh = [one.directory for one in wanted if one.directory not in asked]
    asked |= {name: threading.Thread(target=ask, args=(name,), daemon=True) for name in fresh}
    for name in fresh:
        asked[name].start()
    end = time.monotonic() + MOUNT_S
    for name in fresh:
        asked[name].join(max(0.0, end - time.monotonic()))
    return [Seen(one.directory, said.get(one.directory)) for one in wanted]


def _calls(mounts: Sequence[Seen]) -> list[wire.Underway]:
    return [one for mount in mounts if mount.said is not None for one in mount.said.calls]


def status(link: Link, meta: str) -> wire.Status | None:
    """What the metaserver says; None: nothing.  StartError: it answers, and does not tell us."""
    try:
        found: wire.Status = link.run(call(Peer(meta), wire.GetStatus()))
    except Failure as error:
        text = refusal(error)
        if text:
            raise StartError(text) from error
        return None
    return found


def refusal(answer: object) -> str:
    """Why somebody who was asked does not tell us: our keys, our rights, or that he is another;
    empty: he tells, or is silent."""
    if not isinstance(answer, Failure) or isinstance(answer, Interrupted):
        return ""
    return answer.text if answer.definite or isinstance(answer, Mistrusted) else ""


def _disputed(link: Link, facts: Facts, ino: Ino) -> wire.Disputed | None:
    if facts.status is None:
        return None
    try:
        disputed: wire.Disputed = link.run(call(Peer(facts.meta), wire.Dispute(ino)))
    except Failure:
        return None
    return disputed


def _find(link: Link, meta: str, path: bytes) -> Ino:
    with visiting.visit(link, meta) as volume:
        try:
            return link.run(volume.lookup(path)).ino
        except Posix as error:
            raise StartError(f"{os.fsdecode(path)}: {error.text}") from error


def _with_file(link: Link, facts: Facts, ino: Ino | None) -> Facts:
    """Facts about a file, as far as the metaserver can say them."""
    if not ino or facts.status is None or facts.status.note:
        return facts
    facts = replace(facts, disputed=_disputed(link, facts, ino))
    try:
        with visiting.visit(link, facts.meta) as volume:
            attributes, pages = link.run(volume.where_ino(ino))
    except (Failure, StartError):  # a directory, or gone
        return facts
    blocks = [
        BlockNo(page.page * limits.PAGE_BLOCKS + position)
        for page in pages
        for position, entry in enumerate(blockmap.unpack_page(page.entries))
        if entry is not None
    ]
    return replace(facts, attributes=attributes, blocks=tuple(blocks[:BLOCKS]))


def _ino_of(threads: Sequence[Thread]) -> Ino | None:
    return next((thread.ino for thread in threads if thread.mount and thread.ino), None)


# --- saying ------------------------------------------------------------------------------------


def _notes(threads: Sequence[Thread], calls: Sequence[wire.Underway], facts: Facts) -> list[str]:
    """What can't be known, and what waits inside of the kernel."""
    known = {one.pid for one in calls}
    notes = []
    for thread in threads:
        if thread.tid in known or not thread.mount:
            continue
        others = [o for o in _calls(facts.mounts) if o.ino == thread.ino and o.pid != thread.tid]
        if others:
            notes.append(
                f"thread {thread.tid} is in {thread.call} on inode {thread.ino} and has not got to "
                f"the mount: the kernel lets one at a time at a file, and the call of "
                f"{others[0].pid} ({call_text(others[0], facts.meta)}) is before it"
            )
        else:
            notes.append(
                f"thread {thread.tid} is in {thread.call} on inode {thread.ino} of {thread.mount}, "
                "and the mount has no call of it that waits: it is quick, or in the kernel "
                f"({thread.wchan or 'where, only root may know'})"
            )
    if not calls and not notes:
        doing = [f"{t.tid} {t.state}" + (f" in {t.call}" if t.call else "") for t in threads[:8]]
        notes.append(
            "no mount of this machine has a call of it that waits; its threads: " + ", ".join(doing)
        )
        if not any(thread.call for thread in threads):
            notes.append(
                "its system calls can't be seen: it runs, is of another user, or lives in another "
                "pid namespace than the mount (then name the file instead)"
            )
    return notes


def _shown(
    subject: str, facts: Facts, calls: Sequence[wire.Underway], threads: Sequence[Thread],
    notes: list[str],
) -> dict[str, Any]:  # fmt: skip
    """With the keys that scripts rely on."""
    more = sum(one.said.more for one in facts.mounts if one.said is not None)
    return {
        "subject": subject,
        "metaserver": addresses.short(facts.meta),
        "inode": facts.attributes.ino if facts.attributes else None,
        "reasons": [_reason(one) for one in reasons(facts)],
        "calls": [
            {
                "pid": one.pid,
                "operation": one.operation,
                "inode": one.ino,
                "path": os.fsdecode(one.path) or None,
                "since_s": round(one.since_ms / 1000, 1),
                "asked": [{"address": a.address, "request": a.request} for a in one.asked],
                "text": call_text(one, facts.meta),
            }
            for one in calls
        ],
        "calls_not_named": more,
        "threads": [
            {"tid": t.tid, "name": t.name, "state": t.state, "call": t.call or None,
             "mount": t.mount, "inode": t.ino if t.mount else None, "wchan": t.wchan or None}
            for t in threads
        ],
        "failures": _failures(facts, lambda one: True),
        "mounts": [
            {"directory": one.directory, "answers": one.said is not None} for one in facts.mounts
        ],
        "notes": notes,
    }  # fmt: skip


def _reason(one: Reason) -> dict[str, Any]:
    since = None if one.since_s is None else round(one.since_s, 1)
    return {"kind": one.kind, "what": one.what, "since_s": since, "unblock": one.unblock}


def _failures(facts: Facts, wanted: Any) -> list[dict[str, Any]]:
    return [
        {
            "at_ns": one.at_ns,
            "mount": mount.directory,
            "operation": one.operation,
            "inode": one.ino,
            "path": os.fsdecode(one.path) or None,
            "pid": one.pid,
            "errno": one.number,
            "reason": one.text,
            "text": refusal_text(one, moment(one.at_ns)),
        }
        for mount in facts.mounts
        if mount.said is not None
        for one in mount.said.refusals
        if wanted(one)
    ]


def text(facts: dict[str, Any]) -> str:
    """For people."""
    lines = [facts["subject"] + (f" (inode {facts['inode']})" if facts["inode"] else "")]
    for one in facts["calls"]:
        lines.append(f"  waits     {one['since_s']} s, thread {one['pid']}: {one['text']}")
    if facts["calls_not_named"]:
        lines.append(f"            ... {facts['calls_not_named']} more calls wait")
    for one in facts["reasons"]:
        since = "" if one["since_s"] is None else f", for {one['since_s']} s"
        lines += [f"  because   {one['what']}{since}", f"  unblock   {one['unblock']}"]
    for note in facts["notes"]:
        lines.append(f"  note      {note}")
    for one in facts["failures"]:
        lines.append(f"  failed    {one['text']}")
    if not facts["calls"] and not facts["reasons"] and not facts["notes"]:
        lines.append("  nothing is in the way, as far as the metaserver and the mounts here know")
    if not facts["mounts"]:
        lines.append("  no mount of this machine could be asked: others know more where they are")
    return "\n".join(map(printable, lines))
