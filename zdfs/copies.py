"""Which copy of the metadata counts, and who keeps copies: pure decisions of the metaserver.

The *journal set* is a few dataservers; `needed` of them must have a round before its replies leave,
and the metaserver's own store too.  So any len(set) - needed + 1 of {own store} + set together know
of every round that was ever answered; the newest among them is where a metaserver goes on.

    a set is changed    once `needed` of the new one have everything, and before a round counts by
                        the new one alone, N - N//2 dataservers must have it on disk: whoever hears
                        from more than half of them hears of it.  A start believes no set alone
                        that is newer than the one in force: it asks for enough of each
    the newest copy     the one whose last round is of the highest incarnation, then the highest
                        round: each metaserver begins with a round of its own, behind what it found

`own` is a store that its metaserver can vouch for; one that is empty, was damaged, or that any
dataserver has seen outrun, does not count.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from zdfs import addresses, limits
from zdfs.chain import GENESIS, NO_COPIES, CopySet, Head
from zdfs.cluster import Heard
from zdfs.errors import Damaged
from zdfs.ids import Incarnation, Slot


class Verdict(NamedTuple):
    """What is to be done at a start: nothing, wait (why), or take over a slot's copy."""

    text: str = ""
    source: Slot | None = None
    copies: CopySet = CopySet(0, (), 0)

    @property
    def settled(self) -> bool:
        """Whether the own store is the newest there is."""
        return not self.text and self.source is None


def first_set(needed: int, slots: Sequence[Slot]) -> tuple[Slot, ...]:
    """The first journal set, of the first of these: one may be down while rounds go on."""
    return tuple(sorted(slots[: max(0, 2 * needed - 1)]))


def to_know(servers: int) -> int:
    """How many dataservers must know of a set before it counts alone."""
    return servers - servers // 2


def alive(reports: Mapping[Slot, Heard], at: float) -> dict[Slot, Heard]:
    """Whoever was heard of lately."""
    return {slot: heard for slot, heard in reports.items() if at - heard.at <= limits.DOWN_S}


def newest_set(reports: Mapping[Slot, Heard], known: CopySet) -> CopySet:
    """The newest journal set that anybody knows."""
    return newest([known, *(heard.report.copy.copies for heard in reports.values())])


def newest(told: Iterable[CopySet]) -> CopySet:
    """The newest of some sets."""
    return max(told, key=lambda one: one.number, default=NO_COPIES)


def lacking(copies: CopySet, known: int) -> int:
    """How many more of {own store} + set must be known, before the newest round surely is."""
    return max(0, len(copies.slots) - copies.needed + 1 - known)


def judge(
    own: Head | None,
    known: CopySet,
    reports: Mapping[Slot, Heard],
    ring: Sequence[str],
    incarnation: Incarnation,
) -> Verdict:
    """Whether the own store (None: it does not count) is the newest; `reports`: of the living.

    What a copy says counts only from a server that is promised to this incarnation: until then an
    older metaserver may still add to it.
    """
    promised = {s: h for s, h in reports.items() if h.report.promised >= incarnation}
    whole = {s: h.report.copy.head for s, h in promised.items() if h.report.copy.whole}
    force = newest([known, *(promised[slot].report.copy.force for slot in whole)])
    told = {h.report.copy.copies for h in promised.values()} | {force}
    copies = newest(told)
    sets = [one for one in told if one.needed and one.number >= force.number]
    if not sets:
        return (
            Verdict(copies=copies)
            if own is not None
            else Verdict("nobody has a copy of the metadata")
        )
    for one in sorted(sets, key=lambda one: one.number):
        have = [slot for slot in one.slots if slot in whole]
        if more := lacking(one, len(have) + (own is not None)):
            missing = [addresses.short(ring[slot]) for slot in one.slots if slot not in whole]
            return Verdict(
                f"waiting for {more} more of the dataservers that hold copies of the metadata: "
                f"{', '.join(missing)}"
                + ("" if own else " (if they are lost for good: zdfs meta rebuild)"),
                copies=copies,
            )
    members = [slot for slot in whole if any(slot in one.slots for one in sets)]
    best = max(members, key=lambda slot: order(whole[slot]), default=None)
    if best is None or (own is not None and order(own) >= order(whole[best])):
        return Verdict(copies=copies)
    return Verdict(source=best, copies=copies)


def ahead(known: Head, reports: Mapping[Slot, Heard], incarnation: Incarnation) -> list[Slot]:
    """Who has a newer copy than that, and is about to promise itself: `reports` are of the living.
    A metaserver that started without it would only find itself behind as soon as it has."""
    return [
        slot
        for slot, heard in sorted(reports.items())
        if heard.report.promised < incarnation and heard.report.copy.whole
        if order(heard.report.copy.head) > order(known)
    ]


def order(head: Head) -> tuple[int, int]:
    """The larger, the newer."""
    return head.incarnation, head.round


def successor(
    copies: CopySet, idle_s: Mapping[Slot, float], spares: Sequence[Slot], patience_s: float
) -> tuple[Slot, ...]:
    """The set to strive for: who has been down, or taken nothing, for longer than one is patient,
    gives way to the first of those who could take over."""
    found, left = list(copies.slots), list(spares)
    for place, slot in enumerate(found):
        if left and idle_s.get(slot, 0.0) >= patience_s:
            found[place] = left.pop(0)
    return tuple(sorted(found))


def elected(own: bytes | Damaged | None, told: Sequence[bytes | None]) -> bytes | None:
    """What a record is, when the own store and copies as of the same round say this of it (None:
    there is none; Damaged: it can't be read).  Most votes win, for any one store may have lost it
    without a sign; among equals, that there is a record, and then what a copy says."""
    votes = collections.Counter(told)
    if not isinstance(own, Damaged):
        votes[own] += 1
    return max(votes, key=lambda one: (votes[one], one is not None, one in told))


def reached(heads: Sequence[int], needed: int) -> int:
    """The newest round that `needed` have; 0: none."""
    return sorted(heads, reverse=True)[needed - 1] if 0 < needed <= len(heads) else 0


assert GENESIS.round == 0
