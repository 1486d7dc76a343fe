"""Who is alive, who stands in which slot, whom to believe: pure decisions of the metaserver.

Told of each Report and of the time; answers with what must be recorded and what the server is told.

    founding   all N slots have reported, with one list and empty stores  -> the ring of epoch 1
    a slot's server   same UUID: known.  Opens below its last synced round, or an earlier boot:
                      an old copy: its life grows, it reconciles.  A new, empty UUID: a lost disk.
                      Another cluster's or another slot's store: refused, nothing changes.
    one metaserver    a server's vote is `promised` == our incarnation, from a store that is neither
                      empty nor old (a granted metaserver refills what it must remember); more
                      than half of the slots make us serve (DESIGN 9), or all that remember, when
                      everybody is heard and fewer than such a majority have lost their memory
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from zdfs import addresses, limits, wire
from zdfs.chain import NO_COPIES, CopySet
from zdfs.ids import INCARNATIONS, Epoch, Incarnation, Slot
from zdfs.schema import Server
from zdfs.wire import State


class Heard(NamedTuple):
    """The newest report of a slot."""

    at: float
    report: wire.Report


class Verdict(NamedTuple):
    """What a report means: the slot's record from now on, and the words for refusal or log."""

    server: Server | None  # None: refused
    text: str = ""  # why refused, or what happened (for the event log)
    kind: str = ""  # of the event; "" when it is no news


def fresh(report: wire.Report) -> Server:
    """A slot's record at the founding."""
    return Server(
        uuid=report.uuid, life=report.life, boot=report.boot, opened_round=report.opened_round,
        synced_round=report.synced_round, dropped=0, reconcile=0, reconciled=0, refill=0,
        skipped=False,
    )  # fmt: skip


def founding(reports: Mapping[Slot, Heard], now: float) -> tuple[tuple[str, ...] | None, str]:
    """The ring's addresses once it can be founded; else None and whom we wait for."""
    alive = {slot: h.report for slot, h in reports.items() if now - h.at <= limits.DOWN_S}
    if not alive:
        return None, "waiting for the dataservers: none has reported yet"
    belongs = [r for r in alive.values() if r.cluster]
    if belongs:
        first = belongs[0]
        return None, (
            f"this metaserver's store is empty, but the dataserver in slot {first.slot} belongs to "
            f"cluster {first.cluster.hex()}: start the metaserver with the store it had (if that "
            "is lost: zdfs meta rebuild)"
        )
    lists = {report.addresses for report in alive.values()}
    if len(lists) > 1:
        return None, "the dataservers were started with differing lists of ports"
    ring = lists.pop()
    missing = [addresses.short(ring[s]) for s in range(len(ring)) if Slot(s) not in alive]
    if missing:
        return None, f"waiting for the dataservers at {', '.join(missing)}"
    return ring, ""


def mistyped(report: wire.Report, others: Mapping[Slot, Heard]) -> str:
    """Why its list of ports can't be right, while no metaserver knows the ring; "" if it may be.
    Who belongs to a cluster is believed rather than who belongs to none."""
    if report.slot >= len(report.addresses):
        return f"slot {report.slot} is not in its own list of {len(report.addresses)} ports"
    known = [h.report for slot, h in others.items() if slot != report.slot]
    first = min(known, key=lambda one: not one.cluster, default=report)
    if first.addresses == report.addresses:
        return ""
    shown = " ".join(addresses.short(a) for a in first.addresses)
    return f"its list of ports differs from that of slot {first.slot}: {shown}"


def unlikely(report: wire.Report) -> str:
    """Why nothing that it says is believed: no metaserver can count so far, or claim more; "" if it
    may be."""
    newest = max(report.promised, report.served_incarnation)
    if newest < INCARNATIONS - 2:
        return ""
    return f"it speaks of incarnation {newest} of the metaserver: there can't be so many"


def same_boot(server: Server, report: wire.Report) -> bool:
    """Whether the store is the one we know, and was not opened anew since."""
    known = (server.uuid, server.boot, server.opened_round)
    return known == (report.uuid, report.boot, report.opened_round)


def judge(server: Server, others: Mapping[Slot, Server], report: wire.Report) -> Verdict:
    """What a report of a founded cluster says about its slot.  The cluster's UUID and the list of
    addresses are already checked."""
    if report.uuid == server.uuid:
        same = same_boot(server, report)
        if not same or report.synced_round < server.synced_round:
            old = report.boot <= server.boot or report.opened_round < server.synced_round
            news = replace(
                server,
                boot=report.boot,
                opened_round=report.opened_round,
                synced_round=max(report.synced_round, report.opened_round),
                reconcile=server.reconcile + 1,
            )
            if old:
                news = replace(news, life=server.life + 1, refill=news.reconcile)
                return Verdict(
                    news, "came back with an older copy of its store: it reconciles", "old"
                )
            return Verdict(news)
        return Verdict(replace(server, synced_round=max(server.synced_round, report.synced_round)))
    elsewhere = [slot for slot, other in others.items() if other.uuid == report.uuid]
    if elsewhere:
        return Verdict(None, f"this store belongs to slot {elsewhere[0]}, not {report.slot}")
    lost = not report.cluster
    text = (
        "has a new, empty store: its blocks are rebuilt from its neighbours"
        if lost
        else "came back with a former store of its slot: it reconciles"
    )
    news = replace(
        server, uuid=report.uuid, life=server.life + 1, boot=report.boot,
        opened_round=report.opened_round, synced_round=report.synced_round,
        reconcile=server.reconcile + 1, refill=server.reconcile + 1,
    )  # fmt: skip
    return Verdict(news, text, "lost disk" if lost else "former store")


def trusted(server: Server, report: wire.Report) -> bool:
    """Whether the store that reports is the one we know, and told so."""
    return report.uuid == server.uuid and report.life == server.life


def may_vote(server: Server, others: Mapping[Slot, Server], report: wire.Report) -> bool:
    """Only a store that remembers its promises.  An empty or old one does from the moment when a
    granted metaserver told it its new life, and with it whom it serves; blocks don't matter here.
    """
    return trusted(server, report) and not judge(server, others, report).kind


def granted(
    servers: Mapping[Slot, Server],
    reports: Mapping[Slot, Heard],
    incarnation: Incarnation,
    now: float,
) -> bool:
    """Whether more than half of the slots promised themselves to this incarnation.

    Or all that remember, when all others are heard and came back without their memory: as long as
    those are no majority, one who remembers has heard of any metaserver that was granted since.
    """
    votes = void = 0
    for slot, server in servers.items():
        heard = reports.get(slot)
        if heard is None or now - heard.at > limits.DOWN_S:
            continue
        if not may_vote(server, servers, heard.report):
            void += 1
        elif heard.report.promised == incarnation:
            votes += 1
    majority = len(servers) // 2 + 1
    return votes >= majority or (void < majority and votes + void == len(servers))


def hoping(
    ring: Sequence[str], servers: Mapping[Slot, Server], reports: Mapping[Slot, Heard], now: float
) -> str:
    """Why the votes don't suffice yet, for people."""
    silent, void = [], []
    for slot, server in servers.items():
        heard = reports.get(slot)
        if heard is None or now - heard.at > limits.DOWN_S:
            silent.append(addresses.short(ring[slot]))
        elif not may_vote(server, servers, heard.report):
            void.append(addresses.short(ring[slot]))
    text = "waiting for the votes of more than half of the dataservers"
    text += f"; silent: {', '.join(silent)}" if silent else ""
    return text + (f"; without a vote (a new or old store): {', '.join(void)}" if void else "")


def newer(
    reports: Mapping[Slot, Heard], incarnation: Incarnation, served: tuple[int, int]
) -> wire.Report | None:
    """A server that has promised itself to a later metaserver, or has seen a later state of this
    one than its store remembers: this store is an old copy."""
    for heard in reports.values():
        report = heard.report
        seen = (report.served_incarnation, report.served_round)
        if report.promised > incarnation or seen > served:
            return report
    return None


@dataclass(slots=True)
class Map:
    """The cluster map as mounts see it; `version` grows with every change, across restarts."""

    version: int
    members: tuple[wire.Member, ...] = ()

    def shown(self, epoch: Epoch, copies: CopySet = NO_COPIES) -> wire.ClusterMap:
        """For the wire."""
        return wire.ClusterMap(self.version, epoch, self.members, copies)


def members(
    ring: tuple[str, ...], servers: Mapping[Slot, Server], reports: Mapping[Slot, Heard], now: float
) -> tuple[wire.Member, ...]:
    """Each slot as it is now."""
    found = []
    for number, address in enumerate(ring):
        slot = Slot(number)
        server, heard = servers[slot], reports.get(slot)
        state, host = State.DOWN, b""
        if heard is not None and now - heard.at <= limits.DOWN_S:
            state, host = heard.report.health.state, heard.report.host
            if not trusted(server, heard.report):
                state = State.JOINING
        found.append(
            wire.Member(slot, address, server.uuid, server.life, state, server.skipped, host)
        )
    return tuple(found)


def partial(servers: Mapping[Slot, Server], members: Sequence[wire.Member]) -> set[Slot]:
    """Slots whose store is not known to have all that it should: it reconciles, or has yet to, or
    commits go past it."""
    return {
        member.slot
        for member in members
        if servers[member.slot].reconciled < servers[member.slot].reconcile
        or servers[member.slot].skipped
        or member.state in (State.JOINING, State.RECOVERING)
    }


def stale(
    servers: Mapping[Slot, Server], needed: Collection[Slot], acks: Sequence[wire.Ack]
) -> tuple[Slot, ...]:
    """Slots whose acknowledgements don't prove that their store has the blocks (DESIGN 6).

    An acknowledgement counts while its store lives on: same UUID and life, and the same boot, or
    the boot before with a round that survived into this one.
    """
    bad = {slot for slot in needed if slot not in {ack.slot for ack in acks}}
    for ack in acks:
        server = servers.get(ack.slot)
        if server is None or (ack.uuid, ack.life) != (server.uuid, server.life):
            bad.add(ack.slot)
        elif ack.boot != server.boot:
            survived = ack.boot + 1 == server.boot and ack.round <= server.opened_round
            if not survived:
                bad.add(ack.slot)
    return tuple(slot for slot in sorted(bad) if slot in needed)
