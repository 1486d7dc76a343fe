"""What a dataserver says of its own store, to whoever makes lost metadata anew from it."""

from typing import Annotated as A

from zdfs import limits
from zdfs.ids import Incarnation, Round, Slot
from zdfs.records import U32, U64, Length
from zdfs.wire.base import Address, Flag, Reply, Request, Uuid, message
from zdfs.wire.copies import CopyReport

# --- anybody to dataservers --------------------------------------------------------------------


@message(126)
class Recollection(Reply):
    """All that a dataserver knows of its cluster, also while no metaserver is there."""

    slot: Slot
    addresses: A[tuple[Address, ...], Length(limits.SERVERS_MIN, limits.SERVERS)]
    meta: Address  # where it looks for the metaserver
    silent_ms: A[int, U64]  # since that last answered; 2^63: not in this process's life
    cluster: A[bytes, Length(0, 16)]  # empty: a new store
    uuid: Uuid
    life: A[int, U32]
    boot: A[int, U32]
    opened_round: Round
    synced_round: Round
    promised: Incarnation
    served_incarnation: Incarnation
    block_bytes: A[int, U32]  # the cluster's; 0: it was never told
    whole: Flag  # it has all that it was last told to have
    reconcile: A[int, U64]  # largest number of a reconcile that it was told or finished
    dropped: A[int, U64]
    blocks: A[int, U64]  # versions in its index
    heard: A[int, U64]  # number of its newest event that a metaserver has recorded
    copy: CopyReport  # of the metadata


@message(127)
class Recollect(Request[Recollection]):
    """Whose are you, and what do you know of it?"""
