"""How commands get at measures: servers are asked over the wire, mounts of this machine by an
attribute of their root.  Who says nothing in time is left out: silence must not stop a look."""

import os
import threading
import time
import zlib
from collections.abc import Sequence

from zdfs import addresses, insight, processes, records, wire
from zdfs.calls import Ask, Peer, call_all
from zdfs.link import Link
from zdfs.rates import Look, look

ANSWER_S = 1.0
PAGES = 64  # of one answer, at most: what goes on for ever is no answer
PAGE_BYTES = 1 << 20  # of a page once it is unpacked


def of_servers(link: Link, servers: Sequence[str]) -> dict[str, Look]:
    """What each server says that answers, by address."""
    pages: dict[str, list[wire.Measures]] = {server: [] for server in servers}
    left = dict.fromkeys(servers, "")
    for _ in range(PAGES):
        if not left:
            break
        asks = [Ask(Peer(a), wire.GetMeasures((), after), ANSWER_S) for a, after in left.items()]
        answers = link.run(call_all(asks))
        more: dict[str, str] = {}
        for server, answer in zip(left, answers):
            if isinstance(answer, wire.Measures):
                pages[server].append(answer)
                if answer.more:
                    more[server] = answer.more
        left = more
    return {server: look(found) for server, found in pages.items() if found}


def mounts_of(meta: str | None) -> list[str]:
    """The directories of this machine's mounts; of one metaserver, or of any."""
    found = dict.fromkeys(processes.mounts().values())
    return [one.directory for one in found if meta in (None, addresses.parse(one.source))]


def of_mounts(directories: Sequence[str]) -> dict[str, Look]:
    """What each mount says that answers, by directory."""
    found: dict[str, Look] = {}

    def ask(directory: str) -> None:
        try:
            found[directory] = look(_pages(directory))
        except (OSError, records.BadRecord, zlib.error):
            return  # its connection is gone, or it is of another release

    threads = [threading.Thread(target=ask, args=(one,), daemon=True) for one in directories]
    for thread in threads:
        thread.start()
    end = time.monotonic() + ANSWER_S
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return dict(found)


def _pages(directory: str) -> list[wire.Measures]:
    pages: list[wire.Measures] = []
    name = os.fsdecode(insight.MEASURES)
    while len(pages) < PAGES:
        packed = os.getxattr(directory, f"{name}.{pages[-1].more}" if pages else name)
        plain = zlib.decompressobj().decompress(packed, PAGE_BYTES)
        pages.append(records.unpack(wire.Measures, plain))
        if not pages[-1].more:
            break
    return pages
