"""What the metaserver knows of its mounts: sessions, slots, open files, write grants.

A session's birth and death are records; the rest is *soft*: after a restart of the metaserver each
mount whose session record lives announces it again.  Pure: told the time, asks nobody.

    grant of an inode:   free --take--> held --recall--> recalled --returned or holder died--> free

One session holds a grant at a time.  Tokens only grow, and the inode's record keeps the highest,
so a commit needs no soft state to be judged: its token is the inode's, or it is fenced.  Until
every session known at the start has announced itself or died, no grant is given to somebody else.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from zdfs import limits, wire
from zdfs.calls import Condition, notify
from zdfs.errors import BadMessage, NoSession
from zdfs.ids import ROOT, Ino, Session, Token
from zdfs.interests import Interests
from zdfs.schema import SessionRecord


@dataclass(slots=True)
class Kept:
    """A slot's newest change: its reply, or None while it runs or when a repeat may run again."""

    sequence: int
    reply: wire.Reply | None
    lasts: bool = True  # over a restart of the metaserver, else its repeat runs again then


@dataclass(slots=True)
class Mount:
    """A session that lives."""

    session: Session
    record: SessionRecord
    heard: float
    announced: bool
    address: bytes = b""  # of the socket that heartbeats come from; pushes go there ...
    protocol: int = wire.PROTOCOL_MIN  # ... in the version that those are in
    protocols: wire.Protocols = wire.ONLY_FIRST  # that it speaks
    owing_s: float = 0.0  # for so long it was heard, and has yet to announce itself
    slots: dict[int, Kept] = field(default_factory=dict)
    openings: dict[Ino, int] = field(default_factory=dict)
    blocked: tuple[wire.Blocked, ...] = ()
    beat: int = 0  # number of the newest heartbeat
    told: int = 0  # ... and of the newest news of what it looked at
    root: Ino = ROOT  # what it calls so, if its key is confined
    under: object = None  # the rights that it was last heard with; what it reached by them:
    reached: set[Ino] = field(default_factory=set)  # below its root by a name, but made elsewhere
    fading: set[Ino] = field(default_factory=set)  # likewise, until it closes them


@dataclass(slots=True)
class Held:
    """A write grant."""

    token: Token
    session: Session
    floor: int = 0  # no sequence below will be committed any more
    recalled_at: float | None = None  # when its return was last asked for
    wanted: dict[Session, float] = field(default_factory=dict)  # by whom, since when
    freed: Condition = field(default_factory=Condition)


class Sessions:
    """All mounts."""

    def __init__(self, life_s: float = limits.SESSION_S) -> None:
        self.life_s = life_s
        self.interests = Interests()
        self.mounts: dict[Session, Mount] = {}
        self.grants: dict[Ino, Held] = {}
        self.settled = Condition()  # notified when a mount announced itself or died

    def born(self, session: Session, record: SessionRecord, now: float, announced: bool) -> Mount:
        """A new mount, or one read back from its record (not announced)."""
        mount = self.mounts[session] = Mount(session, record, now, announced)
        return mount

    def mount(self, session: Session) -> Mount:
        """Raises NoSession when it isn't alive."""
        found = self.mounts.get(session)
        if found is None:
            raise NoSession("this mount's session has ended; it opens a new one")
        return found

    def by_nonce(self, nonce: bytes) -> Mount | None:
        """The mount that this nonce opened."""
        return next((m for m in self.mounts.values() if m.record.nonce == nonce), None)

    def heard(self, session: Session, now: float) -> Mount:
        """A sign of life."""
        mount = self.mount(session)
        self._lives(mount, now)
        return mount

    def _lives(self, mount: Mount, now: float) -> None:
        """Time in which it could not be heard is not held against it: a session may live longer."""
        if not mount.announced:
            mount.owing_s += min(max(0.0, now - mount.heard), limits.DOWN_S)
        mount.heard = max(mount.heard, now)

    def beaten(self, session: Session, number: int, heard: int, now: float) -> bool:
        """A heartbeat.  It prolongs the session only if replies reach the mount: one that can't
        hear can't be recalled either.  False: a late one, what it says is no news."""
        mount = self.mount(session)
        if number - heard <= limits.DEAF_BEATS:
            self._lives(mount, now)
        if number <= mount.beat:
            return False
        mount.beat = number
        return True

    def silent(self, now: float) -> list[Session]:
        """Sessions whose life ran out."""
        return [s for s, m in self.mounts.items() if now - m.heard > self.life_s]

    def late(self) -> list[Session]:
        """Sessions that live and don't come to an end with saying what they hold."""
        return [
            session
            for session, mount in self.mounts.items()
            if not mount.announced and mount.owing_s > limits.ANNOUNCE_S
        ]

    def full_lives(self, now: float) -> None:
        """Nobody could be heard until now."""
        for mount in self.mounts.values():
            mount.heard, mount.owing_s = now, 0.0

    def died(self, session: Session) -> list[Ino]:
        """Forget a mount; its grants are free.  Returns the inodes it had open."""
        mount = self.mounts.pop(session, None)
        self.interests.died(session)
        if mount is None:
            return []
        for ino in self.held_by(session):
            self.free(ino)
        notify(self.settled)
        return list(mount.openings)

    def held_by(self, session: Session) -> list[Ino]:
        """The inodes it may write."""
        return [ino for ino, held in self.grants.items() if held.session == session]

    def all_announced(self) -> bool:
        """Whether soft state is whole again after a start."""
        return all(mount.announced for mount in self.mounts.values())

    def settle(self) -> None:
        """A mount has announced itself: who waits for that looks again."""
        notify(self.settled)

    # --- slots ---------------------------------------------------------------------------------

    def admit(self, head: wire.RequestHead, lasts: bool = True) -> wire.Reply | None:
        """The kept reply of a repeated change; None for a new one.  `lasts`: whether its own is to
        be stored.

        Raises BadMessage for an old sequence (a late repeat whose answer was already taken).
        """
        mount = self.mount(head.session)
        if head.slot >= limits.SLOTS:
            raise BadMessage(f"slot {head.slot} of {limits.SLOTS}")
        kept = mount.slots.get(head.slot)
        if kept is None or head.sequence > kept.sequence:
            mount.slots[head.slot] = Kept(head.sequence, None, lasts)
            return None
        if head.sequence < kept.sequence:
            raise BadMessage("a late repeat of a change that was already answered")
        return kept.reply

    def keep(self, head: wire.RequestHead, reply: wire.Reply | None) -> bool:
        """Remember the reply to the slot's newest change (None: a repeat may run again).  False
        when it need not be stored, or there is nobody to remember it for: the session has ended, or
        a newer change has come."""
        mount = self.mounts.get(head.session)
        kept = None if mount is None else mount.slots.get(head.slot)
        if mount is None or (kept is not None and kept.sequence > head.sequence):
            return False
        lasts = kept is None or kept.lasts
        if not lasts and isinstance(reply, wire.Opened):
            reply = None  # it is long, and nothing is changed by opening again what is only read
        mount.slots[head.slot] = Kept(head.sequence, reply, lasts)
        return lasts

    # --- open files ----------------------------------------------------------------------------

    def opened(self, session: Session, ino: Ino, opening: int) -> None:
        """A mount has the inode open; `opening` only grows, so repeats and reorders do no harm."""
        openings = self.mount(session).openings
        openings[ino] = max(opening, openings.get(ino, 0))

    def closed(self, session: Session, ino: Ino, opening: int) -> bool:
        """The mount's handles up to this opening are closed; True when none is left there."""
        openings = self.mount(session).openings
        if openings.get(ino, 0) > opening:
            return False
        openings.pop(ino, None)
        self.mounts[session].fading.discard(ino)
        return True

    def is_open(self, ino: Ino) -> bool:
        """Whether any mount has it open."""
        return any(ino in mount.openings for mount in self.mounts.values())

    def has_open(self, session: Session, ino: Ino) -> bool:
        """Whether this mount has it open."""
        mount = self.mounts.get(session)
        return mount is not None and ino in mount.openings

    def unnamed(self, inos: Collection[Ino] | None) -> None:
        """Names of these files (None: of any) were taken away or moved: who is confined reaches
        them no more until another name shows them, but for what it has open."""
        for mount in self.mounts.values():
            if mount.reached:
                gone = set(mount.reached if inos is None else mount.reached.intersection(inos))
                mount.fading.update(ino for ino in gone if ino in mount.openings)
                mount.reached -= gone

    # --- grants --------------------------------------------------------------------------------

    def holder(self, ino: Ino) -> Held | None:
        """Who may write it."""
        return self.grants.get(ino)

    def grant(self, ino: Ino, session: Session, token: Token) -> None:
        """From now on this session writes it."""
        assert ino not in self.grants or self.grants[ino].session == session
        self.grants[ino] = Held(token, session)

    def free(self, ino: Ino) -> None:
        """Nobody writes it."""
        held = self.grants.pop(ino, None)
        if held is not None:
            notify(held.freed)

    def recalls(self, session: Session) -> tuple[wire.Recalled, ...]:
        """Grants that this mount was asked to return and hasn't yet."""
        found = [
            wire.Recalled(ino, held.token)
            for ino, held in self.grants.items()
            if held.session == session and held.recalled_at is not None
        ]
        return tuple(found[: limits.LIST_ITEMS])
