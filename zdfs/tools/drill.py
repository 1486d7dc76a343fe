"""`zdfs drill`: a fire drill on a live cluster, in a scratch directory of its own.

    write      files, synced; read again by a client that remembers nothing
    corrupt    copies of these files, in every way of zdfs-corrupt: no read gets them, all heal
    stop       a dataserver is silent for a while (SIGSTOP): reads go on, writes wait and go through
    kill       a dataserver dies (kill -9) under a writer, and is started as it was: likewise
    wipe       it comes back with an empty store (the old one is set aside): all copies are rebuilt
    fill       the disks are filled: ENOSPC, nothing else, nothing lost, and room again afterwards
    partition  never: it needs networks of its own; said in the report

It is a client of its own and needs no mount.  **It harms nothing outside of its directory**: it
damages only blocks of files that it has made, starts only while every store is whole, takes one
dataserver at a time, and only those that it may (`--nodes`, or that `make run` looks after).  What
it may not do is skipped, with the reason.  A step that finds a promise broken ends the drill, and
leaves the directory for whoever looks into it.
"""

import argparse
import hashlib
import json
import os
import secrets
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import ENOSPC
from pathlib import Path
from typing import Any

from zdfs import addresses, limits, progress, recovery, wire
from zdfs.calls import Peer, call, sleep
from zdfs.corrupt import corrupt
from zdfs.errors import Failure, StartError
from zdfs.ids import Ino, Policy, Slot
from zdfs.link import Link
from zdfs.paths import PathVolume
from zdfs.tools import admin, visiting
from zdfs.tools import nodes as nodes_here
from zdfs.tools.nodes import MAKE_RUN, Node, find_nodes
from zdfs.wire import State

FILES, FILE_BLOCKS = 6, 4
HEALED_S, BACK_S = 60.0, 180.0  # copies of a few files; a start, and a rebuild of a whole store
SILENT_S = limits.DOWN_S + 2.0
FILL_MOST = 1 << 30  # more free room than this is not filled: others need the disk, and the hours
STEPS = ("write", "corrupt", "stop", "kill", "wipe", "fill", "partition")


class Broken(Exception):
    """A promise did not hold; the text says which, of what."""


@dataclass(slots=True)
class Step:
    """What was done, what was seen, how long it took."""

    name: str
    result: str = "held"  # held, broken, skipped
    done: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    took_s: float = 0.0


def plan(
    faults: dict[Slot, bool], nodes: list[Node], wipe: bool, fill: bool, free_bytes: int
) -> dict[str, str]:
    """Which steps are skipped, and why; pure."""
    skipped = {"partition": "it needs network namespaces around each node; this drill makes none"}
    without = [slot for slot, allowed in faults.items() if not allowed]
    if without:
        shown = ", ".join(map(str, without))
        skipped["corrupt"] = f"dataservers {shown} run without --faults, and refuse to be damaged"
    if not nodes:
        why = "no dataserver may be touched: name some of this machine with --nodes SLOT,SLOT"
        skipped["stop"] = skipped["kill"] = skipped["wipe"] = why
    elif not wipe:
        skipped["wipe"] = "not asked for (--wipe)"
    elif all(node.looked_after for node in nodes):
        skipped["wipe"] = "what started these nodes starts them again before a store can be moved"
    if not fill:
        skipped["fill"] = "not asked for (--fill): meanwhile others get ENOSPC too"
    elif free_bytes > FILL_MOST:
        skipped["fill"] = f"{admin.size(free_bytes)} are free; more than {admin.size(FILL_MOST)}"
    return skipped


def options(commands: Any) -> None:
    """Its arguments, for argparse."""
    parser = commands.add_parser(
        "drill", help="a fire drill in a scratch directory: harm, outages, and a report",
        description="What it may not do is skipped and said.  Exit status: 0 every promise held in "
        "what was done; 2 one did not.",
    )  # fmt: skip
    parser.add_argument(
        "--nodes", default="", metavar="SLOT,SLOT",
        help="dataservers of this machine that may be stopped, killed, and started again by their "
        "own command line; those that make run looks after always may",
    )  # fmt: skip
    parser.add_argument(
        "--wipe", action="store_true", help="also set the store of one of them aside: it rebuilds"
    )
    parser.add_argument("--fill", action="store_true", help="also fill the disks, for a while")
    parser.add_argument("--under", default="/", metavar="PATH", help="where the directory is (/)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report there, too")
    visiting.common(parser)
    parser.set_defaults(do=command)


def command(link: Link, chosen: argparse.Namespace) -> int:
    """Run it and report."""
    with progress.Shown(chosen.json, "may there be a drill?") as tell:
        drill = _drilled(chosen, tell)
    facts = report(drill.folder, drill.steps)
    print(shown := json.dumps(facts, indent=2) if chosen.json else text(facts))
    if chosen.report:
        chosen.report.write_text(shown + "\n")
    return 0 if facts["held"] else 2


def _drilled(chosen: argparse.Namespace, tell: progress.Shown) -> "Drill":
    under, source = visiting.inside(chosen.under, None)
    drill = Drill(visiting.meta_of(chosen, source), chosen.keys, os.fsdecode(under), tell)
    try:
        named = {int(word) for word in chosen.nodes.split(",") if word.isdecimal()}
        nodes = [n for n in find_nodes(drill.ring) if n.slot in named or n.keeper == MAKE_RUN]
        if missing := named - {node.slot for node in nodes}:
            raise StartError(f"no dataserver of slot {min(missing)} runs on this machine")
        nodes.sort(key=lambda n: (n.slot not in named, n.slot))
        drill.run(nodes, chosen.wipe, chosen.fill)
        return drill
    finally:
        drill.link.close()


def report(folder: bytes, steps: list[Step]) -> dict[str, Any]:
    """With the keys that scripts rely on."""
    held = all(step.result != "broken" for step in steps)
    return {
        "held": held,
        "directory": os.fsdecode(folder),
        "removed": held,
        "steps": [
            {"name": s.name, "result": s.result, "took_s": s.took_s, "done": s.done, "seen": s.seen}
            for s in steps
        ],
    }


def text(facts: dict[str, Any]) -> str:
    """For people."""
    lines = []
    for step in facts["steps"]:
        lines.append(f"{step['name']:<10} {step['result']:<8} {step['took_s']} s")
        lines += [f"    {line}" for line in step["done"]]
        lines += [f"    -> {line}" for line in step["seen"]]
    if facts["held"]:
        lines.append("every promise held; the directory is removed")
    else:
        lines.append(f"A PROMISE DID NOT HOLD; see {facts['directory']}, and the nodes' logs")
    return "\n".join(lines)


# --- clients -----------------------------------------------------------------------------------


@contextmanager
def client(meta: str, keys: Path | None) -> Iterator[tuple[Link, PathVolume]]:
    """A whole client for a while: session, heartbeats, flushes."""
    link = Link(keys=keys)
    try:
        volume = PathVolume(meta, "(drill)", link)
        link.run(volume.start())
        link.attend(volume, Peer(meta))
        yield link, volume
        link.run(volume.stop())
    finally:
        link.close()


async def write_file(volume: PathVolume, path: bytes, data: bytes) -> None:
    """Make or overwrite a file; synced when this returns."""
    try:
        handle, _ = await volume.open(path, os.O_RDWR)
    except Failure:
        handle = await volume.create(path, 0o600, os.geteuid(), os.getegid(), os.O_RDWR)
    try:
        await volume.write(handle, memoryview(data), 0)
        await volume.fsync(handle)
    finally:
        await volume.release(handle)


async def verify(volume: PathVolume, truth: dict[bytes, bytes]) -> int:
    """Every byte of every file; how many.  Broken: wrong bytes, or an error."""
    count = 0
    for path, data in truth.items():
        shown = os.fsdecode(path)
        try:
            handle, _ = await volume.open(path, os.O_RDONLY)
            try:
                found = bytes(await volume.read(handle, len(data) + 1, 0))
            finally:
                await volume.release(handle)
        except Failure as error:
            raise Broken(f"{shown} can't be read: {error}") from error
        if found != data:
            ours, theirs = (hashlib.sha256(one).hexdigest()[:16] for one in (data, found))
            raise Broken(f"{shown} has other bytes: {theirs} where {ours} was written")
        count += len(data)
    return count


class Drill:
    """One run."""

    def __init__(self, meta: str, keys: Path | None, under: str, say: Callable[[str], None]):
        self.meta, self.keys, self.say = meta, keys, say
        self.folder = os.fsencode(f"{under.rstrip('/')}/.zdfs-drill-{secrets.token_hex(4)}")
        self.link = Link(keys=keys)
        self.truth: dict[bytes, bytes] = {}
        self.steps: list[Step] = []
        self.status = self._status()
        members = [one.member for one in self.status.servers]
        self.ring = tuple(member.address for member in members)
        if self.status.note or any(one.state is not State.SERVING for one in members):
            why = self.status.note or "a dataserver is down or being rebuilt"
            raise StartError(f"no drill while the cluster is not whole: {why} (zdfs status)")
        told = self.link.run(call(Peer(meta), wire.Foresee((), (), 0, Ino(0), -1)))
        if told.partial:
            raise StartError(
                "no drill while a store is not known to be whole: dataserver "
                + ", ".join(map(str, told.partial))
            )

    def _status(self) -> wire.Status:
        self.link.run(admin.find_meta(self.meta))
        status: wire.Status = self.link.run(call(Peer(self.meta), wire.GetStatus()))
        return status

    def faults(self) -> dict[Slot, bool]:
        """Who may be damaged."""
        return {
            Slot(slot): self.link.run(admin.find_data(address)).faults
            for slot, address in enumerate(self.ring)
        }

    def run(self, nodes: list[Node], wipe: bool, fill: bool) -> None:
        """Step by step; a broken promise ends it."""
        free = min((one.health.free_bytes for one in self.status.servers), default=0)
        skipped = plan(self.faults(), nodes, wipe, fill, free)
        acts: dict[str, Callable[[Step], None]] = {
            "write": self.write,
            "corrupt": self.corrupt,
            "stop": lambda step: self.stop(step, nodes[0]),
            "kill": lambda step: self.kill(step, nodes[0], False),
            "wipe": lambda step: self.kill(step, nodes_here.wipeable(self.ring, nodes), True),
            "fill": self.fill,
        }
        for name in STEPS:
            step = Step(name)
            self.steps.append(step)
            if name in skipped:
                step.result, step.seen = "skipped", [skipped[name]]
                continue
            self.say(f"drill: {name}")
            began = time.monotonic()
            try:
                acts[name](step)
            except (Broken, Failure, StartError, OSError) as error:
                step.result = "broken"
                step.seen.append(str(error))
            step.took_s = round(time.monotonic() - began, 1)
            if step.result == "broken":
                return
        self._clean()

    # --- steps ---------------------------------------------------------------------------------

    def write(self, step: Step) -> None:
        """Files twice over, so that there is older content, too."""
        size = FILE_BLOCKS * self.status.block_bytes
        with client(self.meta, self.keys) as (link, volume):
            link.run(volume.make(self.folder, stat.S_IFDIR | 0o700, os.geteuid(), os.getegid()))
            for number in range(FILES):
                path, data = self.folder + b"/%d" % number, secrets.token_bytes(size - number)
                link.run(write_file(volume, path, data[::-1]))
                link.run(write_file(volume, path, data))
                self.truth[path] = data
        step.done.append(
            f"wrote and synced {FILES} files of {size} bytes in {os.fsdecode(self.folder)}"
        )
        self._verify(step)

    def corrupt(self, step: Step) -> None:
        """A copy of each file, each way in turn; then reads, until every copy is whole again."""
        ways = list(wire.Harm)
        with client(self.meta, self.keys) as (link, volume):
            for number, path in enumerate(self.truth):
                how = ways[number % len(ways)]
                first = link.run(admin.where(volume, path))["blocks"][0]["replicas"][number % 3]
                server = self.ring[first["slot"]]
                done = link.run(corrupt(volume, server, path, first["replica"], how, number))
                step.done.append(
                    f"{how.name.lower()}: block {done.block} of {os.fsdecode(path)} on "
                    f"{addresses.short(server)}"
                )
        self._verify(step)
        self._heal(step)

    def stop(self, step: Step, node: Node) -> None:
        """A dataserver that is silent, and a writer meanwhile."""
        with self._writer(step):
            os.kill(node.pid, signal.SIGSTOP)
            try:
                step.done.append(f"stopped dataserver {node.slot} (process {node.pid})")
                self._away(step, node.slot)
                self._verify(step)
            finally:
                os.kill(node.pid, signal.SIGCONT)
            step.done.append("let it go on")
        self._back(step, node.slot)

    def kill(self, step: Step, node: Node, wipe: bool) -> None:
        """kill -9, and the same command line again, perhaps on an empty store."""
        folder = os.readlink(f"/proc/{node.pid}/cwd")
        outputs = (nodes_here.output(node.pid, 1), nodes_here.output(node.pid, 2))
        if wipe:
            nodes_here.store_of(node, folder)
        with self._writer(step):
            os.kill(node.pid, signal.SIGKILL)
            step.done.append(f"killed dataserver {node.slot} (process {node.pid})")
            if not node.looked_after:
                try:
                    self._away(step, node.slot)
                    self._verify(step)
                    if wipe:
                        aside = nodes_here.set_aside(node, folder)
                        step.done.append(f"set its store aside: {aside}")
                finally:
                    again = nodes_here.start_again(node, folder, outputs)
                    words = " ".join(node.words)
                    step.done.append(f"started it again (process {again.pid}): {words}")
            else:
                step.done.append(f"left its start to {node.keeper}")
                self._verify(step)
            self._back(step, node.slot, unlike=node.pid)
        self._verify(step)
        self._heal(step)

    def fill(self, step: Step) -> None:
        """Until nothing more can be stored, and again afterwards."""
        path, chunk = self.folder + b"/fill", secrets.token_bytes(4 * limits.MIB)
        refused: Failure | None = None
        with client(self.meta, self.keys) as (link, volume):
            for number in range(2 * FILL_MOST // len(chunk)):
                try:
                    link.run(write_file(volume, path + b"%d" % number, chunk))
                except Failure as error:
                    refused = error
                    break
            step.done.append(f"wrote {number * len(chunk)} bytes more")
            if refused is None or refused.number != ENOSPC:
                raise Broken(f"a full disk should be ENOSPC, and is: {refused or 'no error'}")
            step.seen.append(f"then: {refused}")
            for gone in range(number + 1):
                try:
                    link.run(volume.unlink(path + b"%d" % gone))
                except Failure as error:
                    step.seen.append(f"the last one: {error}")
            self._until(lambda: self._writes(link, volume), "room again after deleting")
        step.seen.append("after deleting there is room again")
        self._verify(step)

    def _writes(self, link: Link, volume: PathVolume) -> bool:
        path = self.folder + b"/after"
        try:
            link.run(write_file(volume, path, b"x" * self.status.block_bytes))
        except Failure as error:
            if error.number != ENOSPC:
                raise
            return False
        self.truth[path] = b"x" * self.status.block_bytes
        return True

    def _verify(self, step: Step) -> None:
        with client(self.meta, self.keys) as (link, volume):
            count = link.run(verify(volume, self.truth))
        step.seen.append(f"{len(self.truth)} files read whole and right ({count} bytes)")

    @contextmanager
    def _writer(self, step: Step) -> Iterator[None]:
        """A program that writes and syncs all the while; what it was promised must be there."""
        path = self.folder + b"/writer-" + step.name.encode()
        ended, errors = threading.Event(), []
        synced = [b""]

        def write() -> None:
            number = 0
            try:
                with client(self.meta, self.keys) as (link, volume):
                    while not ended.is_set():
                        data = b"%016d" % number
                        link.run(write_file(volume, path, data))
                        synced[0], number = data, number + 1
                        link.run(sleep(0.02))
            except Failure as error:
                errors.append(error)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        self._until(lambda: synced[0] or errors, "the first write of a writer")
        try:
            yield
        finally:
            ended.set()
        thread.join(HEALED_S)
        if thread.is_alive() or errors:
            raise Broken(f"a write did not go through: {errors[0] if errors else 'it still waits'}")
        self.truth[path] = synced[0]
        step.seen.append(f"a writer's {int(synced[0]) + 1} synced writes all went through")

    def _away(self, step: Step, slot: Slot) -> None:
        """It is seen that a server is away, and that writes wait for it (policy all)."""
        self._until(lambda: self._state(slot) is State.DOWN, f"dataserver {slot} shown as down")
        if self.status.policy is Policy.QUORUM:
            step.seen.append("status says that it is down; writes go on (policy quorum)")
            return
        self._until(self._blocked, "waiting writes in zdfs status")
        step.seen.append("status says that it is down, and that writes wait")

    def _back(self, step: Step, slot: Slot, unlike: int = 0) -> None:
        """It serves again; as another process, if one died."""

        def back() -> bool:
            here = [node.pid for node in find_nodes(self.ring) if node.slot == slot]
            fresh = not unlike or (bool(here) and unlike not in here)
            whole = all(one.member.state is State.SERVING for one in self._status().servers)
            return fresh and whole and not self._blocked() and not self._partial()

        began = time.monotonic()
        self._until(back, f"dataserver {slot} serving, its store whole", BACK_S)
        step.seen.append(f"whole again after {time.monotonic() - began:.1f} s")

    def _partial(self) -> bool:
        told = self.link.run(call(Peer(self.meta), wire.Foresee((), (), 0, Ino(0), -1)))
        return bool(told.partial)

    def _state(self, slot: Slot) -> State:
        return self._status().servers[slot].member.state

    def _blocked(self) -> bool:
        return any(session.blocked for session in self._status().sessions)

    def _heal(self, step: Step) -> None:
        """Every copy is good; reads have it repaired, whichever copy they ask."""

        def healed() -> bool:
            with client(self.meta, self.keys) as (link, volume):
                link.run(verify(volume, self.truth))
                return all(
                    one["state"] == "ok"
                    for path in self.truth
                    for block in link.run(admin.where(volume, path))["blocks"]
                    for one in block["replicas"]
                ) or not link.run(self._mend(volume))

        self._until(healed, "every copy of every file whole")
        step.seen.append("every copy of every file is whole")

    async def _mend(self, volume: PathVolume) -> bool:
        """Ask each server for its copies, as a read does that comes by; True: look again."""
        for path in self.truth:
            attributes, pages = await volume.where(path)
            for page in pages:
                entries = wire.InventoryPage(
                    attributes.ino, attributes.epoch, attributes.start, page.page, page.entries
                )
                for slot, address in enumerate(self.ring):
                    wanted = list(recovery.duty(entries, Slot(slot), len(self.ring)))
                    for part in recovery.chunks(wanted):
                        get = wire.Get(volume.contact.cluster, tuple(part), True)
                        await call(Peer(address), get, limits.BULK_TIMEOUT_S)
        return True

    def _until(self, good: Callable[[], Any], what: str, patience_s: float = HEALED_S) -> None:
        end = time.monotonic() + patience_s
        while not good():
            if time.monotonic() > end:
                raise Broken(f"not within {patience_s:g} s: {what}")
            time.sleep(0.2)

    def _clean(self) -> None:
        with client(self.meta, self.keys) as (link, volume):
            for path in self.truth:
                link.run(volume.unlink(path))
            link.run(volume.rmdir(self.folder))
