"""Which releases have written to a store, since when."""

from collections.abc import Sequence
from typing import Annotated as A
from typing import NamedTuple

from zdfs.records import U16, U32, Length

WRITERS = 16  # kept of a store, the first among them


class Writer(NamedTuple):
    """A release that wrote to a store, until the next one did."""

    release: A[str, Length(0, 64)]
    protocol: A[int, U16]  # the newest that it spoke
    format: A[int, U32]  # that it left the store in
    since_ns: int


Lineage = A[tuple[Writer, ...], Length(0, WRITERS)]


def signed(lineage: Sequence[Writer], writer: Writer) -> tuple[Writer, ...]:
    """The same with a writer behind, unless it was the last one already."""
    if lineage and lineage[-1][:3] == writer[:3]:
        return tuple(lineage)
    return (*lineage[:1], *lineage[1:][-(WRITERS - 2) :], writer)
