"""What a check of everything found, for people and for scripts: pure.

    severity 1   nothing is lost: it heals by itself, or by --repair, or does no harm
    severity 2   content or metadata is lost or damaged, and no copy of it is known

`SORTS` says of each kind of finding what it means and what happens next; its keys are stable.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zdfs.amounts import printable
from zdfs.ids import Ino
from zdfs.wire import Flaw

MOST_FINDINGS = 1000  # more are counted, not kept
SHOWN = 20  # of each kind, in text
HARMLESS, LOST = 1, 2


class Sort(NamedTuple):
    """A kind of finding."""

    severity: int
    meaning: str
    future: str


SORTS = {
    # --- what the maps name
    "missing": Sort(
        HARMLESS,
        "a server does not have its copy of a block; another server has a good one",
        "copied back by the server itself, at the latest after its next scrub; at once: --repair",
    ),
    "owed": Sort(
        HARMLESS,
        "a write went on without a server, by policy quorum; two servers have the block",
        "collected by the server itself as soon as it is back: zdfs debts; at once: --repair",
    ),
    "damaged": Sort(
        HARMLESS,
        "a server's copy of a block fails its checksum; another server has a good one",
        "repaired when it is read, or by the next scrub; at once: --repair",
    ),
    "lost": Sort(
        LOST,
        "no server has a good copy of a block: reading it is EIO, never a wrong byte",
        "nothing can be done here: write the file anew from a backup, or remove it",
    ),
    # --- what the servers hold beyond that
    "superseded": Sort(
        HARMLESS,
        "a server holds an old version of a block that nobody can read any more",
        "dropped by the server after its next scrub; at once: --repair",
    ),
    "ownerless": Sort(
        HARMLESS,
        "a server holds a block of a file that was removed",
        "dropped by the server after its next scrub; at once: --repair",
    ),
    "surplus": Sort(
        HARMLESS,
        "a server holds a copy of a block that has its place on other servers",
        "it only takes room; --repair drops it once the others are good",
    ),
    # --- metadata
    "nameless": Sort(HARMLESS, "a file has no name", "--repair names it in /lost+found"),
    "links": Sort(HARMLESS, "a link count is wrong", "--repair counts the names"),
    "parent": Sort(
        HARMLESS,
        "a directory is named where it does not stand",
        "--repair leaves it the one place that it knows of",
    ),
    "orphan": Sort(
        HARMLESS,
        "a removed file is not let go of: it takes room",
        "--repair has it let go of; if it stays, its map is damaged",
    ),
    "stored": Sort(HARMLESS, "a file's count of stored bytes is wrong", "--repair counts again"),
    "totals": Sort(HARMLESS, "the sums that df shows are wrong", "--repair counts again"),
    "debts": Sort(
        HARMLESS,
        "what servers are owed is miscounted, or can't be",
        "--repair counts again; servers look for what they lack all the same",
    ),
    "dangling": Sort(
        LOST,
        "a name leads to nothing, or to something else: what it led to is lost",
        "--repair removes the name, or gives it the right type",
    ),
    "entries": Sort(
        LOST,
        "names of a directory are lost: it can't be listed",
        "--repair keeps the names that are there; files without one go to /lost+found",
    ),
    "record": Sort(
        LOST,
        "a record of the metadata is damaged: what needs it is EIO",
        "nothing can be done here: restore a copy of the metaserver's store",
    ),
    "inode": Sort(
        LOST,
        "an inode contradicts itself",
        "nothing can be done here: copy the file elsewhere and remove it",
    ),
    "children": Sort(
        LOST,
        "a part of a file's block map or of its extended attributes is lost: reading it is EIO",
        "nothing can be done here: write the file anew from a backup",
    ),
    "map": Sort(
        LOST,
        "an entry of a file's block map can't be: that part of the file may be EIO",
        "nothing can be done here: write the file anew from a backup",
    ),
    "loop": Sort(
        LOST,
        "a directory has no way up to the root",
        "nothing can be done here: restore a copy of the metaserver's store",
    ),
}
METADATA = {flaw: flaw.name.lower() for flaw in Flaw}
assert all(kind in SORTS for kind in METADATA.values())
GARBAGE = frozenset({"superseded", "ownerless"})


@dataclass(slots=True)
class Finding:
    """One thing that is not as it must be."""

    kind: str
    ino: Ino
    text: str
    name: bytes = b""  # in the directory `ino`
    block: int | None = None
    slot: int | None = None
    address: str | None = None
    version: str | None = None
    mended: str = ""  # what was done about it
    path: bytes | None = None  # one of the file's; None: it has none, or none was found


@dataclass(slots=True)
class Report:
    """All of it."""

    records: int = 0  # of metadata
    replicas: int = 0  # that the maps name
    versions: int = 0  # that servers hold
    counts: Counter[str] = field(default_factory=Counter)
    mended: int = 0
    findings: list[Finding] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep it if there aren't too many."""
        self.counts[finding.kind] += 1
        self.mended += bool(finding.mended)
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(finding)

    def could_not(self, what: str) -> None:
        """Something was not looked at: said once."""
        if what not in self.unfinished:
            self.unfinished.append(what)

    @property
    def status(self) -> int:
        """The command's exit status: 0 nothing; 1 nothing lost; 2 lost, or not all looked at."""
        if self.unfinished:
            return LOST
        return max((SORTS[kind].severity for kind in self.counts), default=0)


def facts(report: Report, before: Report | None = None) -> dict[str, Any]:
    """The JSON document.  `before`: what --repair found, of which `report` is what is left."""
    return {
        "status": report.status,
        "finished": not report.unfinished,
        "unfinished": report.unfinished,
        "records": report.records,
        "replicas": report.replicas,
        "versions": report.versions,
        "counts": {kind: report.counts[kind] for kind in SORTS if kind in report.counts},
        "findings": [_finding_facts(one) for one in report.findings],
        "repaired": (
            None
            if before is None
            else {
                "mended": before.mended,
                "counts": {kind: before.counts[kind] for kind in SORTS if kind in before.counts},
                "findings": [_finding_facts(one) for one in before.findings],
            }
        ),
    }


def _finding_facts(one: Finding) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "severity": SORTS[one.kind].severity,
        "path": None if one.path is None else os.fsdecode(one.path),
        "inode": one.ino,
        "block": one.block,
        "version": one.version,
        "slot": one.slot,
        "address": one.address,
        "text": one.text,
        "mended": one.mended or None,
    }


def text(report: Report, before: Report | None = None) -> str:
    """For people."""
    lines = []
    if before is not None:
        lines += _listed("found", before)
        lines += [f"mended: {before.mended} of {before.counts.total()}", "", "checked again"]
    lines += [
        f"looked at {report.records} records of metadata, {report.replicas} replicas, "
        f"{report.versions} versions on the dataservers"
    ]
    lines += _listed("left" if before is not None else "found", report)
    if not report.counts and not report.unfinished:
        lines.append("everything is in its place")
    for what in report.unfinished:
        lines.append(f"not finished: {what}")
    return "\n".join(lines)


def _listed(word: str, report: Report) -> list[str]:
    """Findings by kind, the worst first."""
    lines = []
    for kind in sorted(report.counts, key=lambda kind: -SORTS[kind].severity):
        sort = SORTS[kind]
        lines += [
            f"{word}: {report.counts[kind]} {kind}: {sort.meaning}",
            f"    next: {sort.future}",
        ]
        kept = [one for one in report.findings if one.kind == kind]
        lines += [f"    {_line(one)}" for one in kept[:SHOWN]]
        more = report.counts[kind] - len(kept[:SHOWN])
        if more:
            lines.append(f"    ... and {more} more (--json has up to {MOST_FINDINGS})")
    return lines


def _line(one: Finding) -> str:
    where = f"inode {one.ino}" if one.path is None else os.fsdecode(one.path)
    block = "" if one.block is None else f" block {one.block}"
    at = "" if one.address is None else f" on {one.address} (slot {one.slot})"
    done = f"; mended: {one.mended}" if one.mended else ""
    return f"{printable(where)}{block}{at}: {one.text}{done}"
