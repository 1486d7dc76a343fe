"""A dataserver that said it had done reconciles which it was never told of was believed for ever.

It would have passed for whole after it lost its disk.  (Found by `make fuzz`.)
"""

from dataclasses import replace

from tests.fuzz.sayings import frames_of
from tests.fuzz.siege import Siege

from zdfs import wire
from zdfs.ids import Incarnation, Session


def test_it_has_done_what_it_was_told() -> None:
    siege = Siege()
    said = siege.world.seen[wire.Report]
    mine = next(one for _, one in reversed(said) if isinstance(one, wire.Report) and one.cluster)
    head = wire.RequestHead(Session(0), wire.NO_SLOT, 9, 2000, Incarnation(1))
    forged = replace(mine, reconciled=2**32 - 1)
    siege.send(0, frames_of(wire.encode_request(head, forged)), as_server=True)
    siege.world.run(lambda: bool(siege.answers), 10)
    server = siege.meta.ledger.servers[mine.slot]
    assert server.reconciled <= server.reconcile


def test_it_quotes_an_answer_that_nobody_gave() -> None:
    """All that the dataserver of that slot said from then on was taken for late."""
    siege = Siege()
    said = siege.world.seen[wire.Report]
    mine = next(one for _, one in reversed(said) if isinstance(one, wire.Report) and one.cluster)
    head = wire.RequestHead(Session(0), wire.NO_SLOT, 9, 2000, Incarnation(1))
    forged = replace(mine, uuid=bytes(15) + b"!", ticket=mine.ticket + 2**30)
    siege.send(0, frames_of(wire.encode_request(head, forged)))
    siege.world.run(lambda: bool(siege.answers), 10)
    siege.serves()
