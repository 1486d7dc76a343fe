"""Block versions on their way to their replicas: a flight's Puts, until every server has them.

Puts are idempotent by name, so one without an answer is sent again.  While a server is down, the
flight waits for it; under policy quorum it goes without, if two others have each of its blocks.
"""

from typing import Any

from zdfs import limits, placement, wire
from zdfs.cache import File, Flight, version_of
from zdfs.calls import now, wait
from zdfs.contact import Contact
from zdfs.errors import Failure, Unavailable, Unreachable
from zdfs.ids import Epoch, Name, Slot


class Putter:
    """Puts flights."""

    def __init__(self, contact: Contact):
        self.contact = contact
        self.waiting: set[Flight] = set()  # that can't go on until a server is back

    def needed(self, file: File, flight: Flight) -> set[Slot]:
        """The slots that its blocks belong on."""
        servers, start = self.contact.servers, file.attributes.start
        return {slot for block in flight.blocks for slot in placement.slots(start, block, servers)}

    async def put(self, file: File, flight: Flight, needed: set[Slot]) -> None:
        """Until every needed server has it or the flight is lost; raises what is an answer."""
        try:
            await self._put(file, flight, needed)
        finally:
            self.waiting.discard(flight)

    async def _put(self, file: File, flight: Flight, needed: set[Slot]) -> None:
        start, contact = file.attributes.start, self.contact
        while missing := [
            slot for slot in needed if slot not in flight.acks and not contact.skipped(slot)
        ]:
            if flight.lost:
                return
            spared = await contact.spared(file.ino, start, flight.blocks, missing)
            if spared.issuperset(missing):
                flight.owed = spared
                contact.go_without(spared)
                return
            if any(contact.away(slot) for slot in set(missing) - spared):
                self.waiting.add(flight)
            at = await now()
            await self._put_on(file, flight, [slot for slot in missing if slot not in spared], at)
            left = {slot for slot in missing if slot not in flight.acks}
            if flight.lost or not left:
                continue
            spared = await contact.spared(file.ino, start, flight.blocks, left)
            if spared != left:
                for slot in left - spared:
                    await contact.wait_for(slot, file.ino, at)
                await wait(contact.map_changed, limits.RETRY_S)
                contact.retried["Put"] += len(left)

    async def _put_on(self, file: File, flight: Flight, slots: list[Slot], at: float) -> None:
        """Once, on these servers at once; raises what is an answer."""
        asks: list[tuple[Slot, wire.Request[Any]]] = [
            (slot, self._request(file, flight, slot)) for slot in slots
        ]
        failures: list[Failure] = []
        for slot, answer in zip(slots, await self.contact.ask_servers(asks)):
            if isinstance(answer, wire.Stored):
                flight.acks[slot] = wire.Ack(
                    slot, answer.uuid, answer.life, answer.boot, answer.round
                )
                self.contact.unblock(slot)
            elif isinstance(answer, (Unreachable, Unavailable)):
                self.contact.miss(slot, at)
            elif isinstance(answer, Failure):
                failures.append(answer)
        if failures:
            raise failures[0]

    def _request(self, file: File, flight: Flight, slot: Slot) -> wire.Put:
        blocks, data = [], []
        start, epoch = file.attributes.start, file.attributes.epoch
        for block, dirty in flight.blocks.items():
            if placement.replica(start, block, self.contact.servers, slot) is None:
                continue
            name = Name(file.ino, block, version_of(flight, block))
            entry = flight.entries[block]
            blocks.append(wire.Put1(name, entry.seal, Epoch(epoch), start, entry.stored))
            data.append(dirty.data)
        return wire.Put(
            self.contact.cluster, tuple(blocks), self.contact.permits.of(file.ino), tuple(data)
        )
