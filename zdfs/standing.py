"""How the cluster stands: all of `zdfs status`, and what an outage would cost."""

from zdfs import cluster, debts, forecast, wire
from zdfs.calls import now
from zdfs.errors import Damaged
from zdfs.ids import ROOT, Policy
from zdfs.membership import Membership
from zdfs.ports import Caller
from zdfs.sessions import Mount
from zdfs.wire import State

SHOWN_EVENTS = 64  # in a status: events of a KiB at most ...
SHOWN_MOUNTS = 128  # ... and mounts of half a KiB fit into one head


class Standing:
    """Answers for people."""

    def __init__(self, members: Membership):
        self.members, self.ledger = members, members.ledger

    async def status(self, request: wire.GetStatus, caller: Caller) -> wire.Status:
        """All of `zdfs status`."""
        at = await now()
        ours = self.ledger.cluster
        servers = [self._server_status(member, at) for member in self.members.map.members]
        mounts = [
            wire.SessionStatus(m.session, m.record.host, m.record.mount, m.blocked, _protocols(m))
            for m in list(self.members.sessions.mounts.values())[:SHOWN_MOUNTS]
        ]
        try:
            events = [wire.Event(*event) for event in self.ledger.events(SHOWN_EVENTS)]
        except Damaged as error:
            events = [wire.Event(0, "damage", f"the event log: {error}")]
        with self.ledger.view() as view:
            policy = debts.policy_or_all(view, ROOT) if ours else Policy.ALL
        return wire.Status(
            ours.uuid if ours else b"", self._why(), self.members.block_bytes, policy,
            self.ledger.incarnation,
            tuple(servers), tuple(mounts), tuple(events), refused=0, copies=self._copies(),
        )  # fmt: skip

    def _why(self) -> str:
        """Why nothing can be changed; empty: it can."""
        members = self.members
        ready = members.copying.ready() if members.copying and members.granted else ""
        return members.note or ready

    def _server_status(self, member: wire.Member, at: float) -> wire.ServerStatus:
        heard, owed = self.members.reports.get(member.slot), self.members.account(member.slot)[:3]
        if heard is None:
            nothing = wire.Health(State.DOWN, 0, 0, 0, 0, None, 0, 0, 0, "")
            return wire.ServerStatus(member, nothing, 2**63, *owed)
        silent_ms = int((at - heard.at) * 1000)
        report = heard.report
        return wire.ServerStatus(member, report.health, silent_ms, *owed, report.protocols)

    def _copies(self) -> wire.Copies:
        """Who holds copies of the metadata."""
        copying = self.members.copying
        if copying is None:
            return wire.Copies(0, ())
        facts = tuple(wire.CopyStatus(*one) for one in copying.facts())
        return wire.Copies(copying.copies.needed, facts)

    async def foresee(self, request: wire.Foresee, caller: Caller) -> wire.Forecast:
        """What an outage would cost, a slice of all files."""
        self.members.may_read(await now())
        servers = len(self.ledger.ring)
        skipped = {s for s, server in self.ledger.servers.items() if server.skipped}
        outage = forecast.Outage(
            frozenset(request.down),
            frozenset(request.silent),
            frozenset(cluster.partial(self.ledger.servers, self.members.map.members)),
            frozenset(skipped),
        )
        with self.ledger.view() as view:
            return forecast.foresee(view, request, outage, lambda epoch: servers)


def _protocols(mount: Mount) -> wire.Protocols:
    """What a mount speaks.  One that has not spoken since our start is not called old for it."""
    return mount.protocols if mount.announced else wire.spoken()
