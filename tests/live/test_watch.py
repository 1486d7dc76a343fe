"""`zdfs watch`: everything that happens, once, in order, whatever starts again."""

import contextlib
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import until
from tests.live import files
from tests.live.cluster import BIN, Cluster, started
from tests.live.hands import Hand
from zdfs import limits

BLOCK = 4096


class Watch:
    """A `zdfs watch --json` that runs."""

    def __init__(self, cluster: Cluster, name: str, *words: str):
        self.path = cluster.folder / name
        with self.path.open("wb") as out:
            self.process = subprocess.Popen(
                [str(BIN / "zdfs"), "watch", "--json", "--meta", str(cluster.meta_port), *words],
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def seen(self) -> list[dict[str, Any]]:
        """All events so far."""
        lines = self.path.read_text().split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def wait(self, kind: str, text: str = "", after: int = 0, deadline_s: float = 30) -> int:
        """Until an event of this kind has come behind the first `after` ones; how many there are up
        to it."""

        def place() -> int:
            for number, event in enumerate(self.seen()[after:], after + 1):
                if event["kind"] == kind and text in event["text"]:
                    return number
            return 0

        return until(place, deadline_s, f"{kind} {text!r} behind {after} events")

    def end(self) -> None:
        """^C, which is no failure."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=30) == 0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Four servers with small blocks."""
    with started(tmp_path, 4, block_size=BLOCK) as made:
        yield made


def test_what_happens_is_told_once(cluster: Cluster, dice: random.Random) -> None:
    """A day in the life of a cluster; a second watch that is stopped and goes on has seen the same;
    the metaserver restarts in the middle."""
    watch, other = Watch(cluster, "watch"), Watch(cluster, "other")
    mount = cluster.mount()
    at = watch.wait("mount", str(mount))
    files.put(mount / "f", dice.randbytes(50 * BLOCK))
    block = cluster.where("/f")["blocks"][0]["replicas"][0]
    port = block["address"].rpartition(":")[2]
    assert not cluster.command("zdfs-corrupt", port, "/f", 0).returncode
    assert files.get(cluster.mount("fresh") / "f")
    cluster.command("zdfs", "scrub", "--now", "--meta", cluster.meta_port)
    watch.wait("repaired", port, watch.wait("damage", port, at))
    watch.wait("scrubbed", after=at)
    other.wait("scrubbed")
    other.end()
    cluster.kill("data-1")
    at = watch.wait("down", str(cluster.ports[1]), at, 15)
    with Hand(mount) as hand:
        hand.start("fd = os.open('g', os.O_WRONLY | os.O_CREAT); os.write(fd, b'x'); os.fsync(fd)")
        at = watch.wait("blocked", f"{mount} wait for dataserver {cluster.ports[1]}", at)
        cluster.kill("meta")
        at = watch.wait("watch", "does not answer", at)
        cluster.start_meta()
        at = watch.wait("watch", "incarnation 2", at)
        at = watch.wait("metaserver", "incarnation 2 serves", at)
        shutil.rmtree(cluster.stores[1])
        cluster.start_data(1)
        begun = watch.wait("rebuild", "blocks", watch.wait("lost disk", after=at))
        watch.wait("rebuilt", "whole again", begun)
        watch.wait("up", str(cluster.ports[1]), at)
        watch.wait("unblocked", str(mount), at)
        hand.end()
    cluster.unmount(mount)
    end = watch.wait("unmount", str(mount), at)
    last = next(one["number"] for one in reversed(other.seen()) if one["number"])
    again = Watch(cluster, "again", "--after", str(last))
    again.wait("unmount", str(mount))
    until(lambda: again.seen()[-1] in watch.seen(), 30, "the first has written all of it, too")
    both = [one for one in other.seen() + again.seen() if one["number"]]
    all_ = [one for one in watch.seen() if one["number"]]
    numbers = [one["number"] for one in all_]
    assert numbers == sorted(set(numbers)), "in order, none twice"
    assert both[-1] in all_ and both == all_[: all_.index(both[-1]) + 1], "none is missing"
    port, name = str(cluster.ports[1]), str(mount)  # of others some may be silent for a moment
    whose = {"down": port, "up": port, "blocked": name, "unblocked": name, "lost disk": port}
    for kind, who in whose.items():
        told = [one for one in all_[:end] if one["kind"] == kind and who in one["text"]]
        assert len(told) == 1, (kind, told)
    for one in (watch, again):
        one.end()


def test_a_kill_that_is_over_soon_is_told(cluster: Cluster) -> None:
    watch = Watch(cluster, "watch")
    watch.wait("metaserver")
    time_of_start = time.time_ns()
    cluster.kill("data-2")
    cluster.start_data(2)
    watch.wait("started", f"{cluster.ports[2]} started, boot 2 of its store")
    took_s = (time.time_ns() - time_of_start) / 1e9
    watch.end()
    events = [one for one in watch.seen() if one["kind"] in ("started", "down", "up")]
    kinds = [one["kind"] for one in events if one["at_ns"] >= time_of_start]
    if took_s < limits.DOWN_S:
        assert kinds == ["started"]
    else:  # on a machine that has much else to do it was not over soon
        assert "started" in kinds


def test_a_terminal_shows_a_bar(cluster: Cluster, dice: random.Random) -> None:
    """While a disk is rebuilt, at a rate that lets one see it."""
    files.put(cluster.mount() / "f", dice.randbytes(2000 * BLOCK))
    cluster.kill("data-0")
    shutil.rmtree(cluster.stores[0])
    cluster.more = ("--rebuild-rate", "500000")
    near, far = pty.openpty()
    words = [str(BIN / "zdfs"), "watch", "--meta", str(cluster.meta_port)]
    watch = subprocess.Popen(
        words, stdout=far, stderr=far, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    )
    os.close(far)
    os.set_blocking(near, False)
    seen = b""

    def shown(what: bytes) -> bool:
        nonlocal seen
        with contextlib.suppress(OSError):  # nothing yet, or nothing any more
            seen += os.read(near, 65536)
        return what in seen

    try:
        until(lambda: shown(b"metaserver: incarnation 1 serves"), 20)
        cluster.start_data(0)
        begun = time.monotonic()
        until(lambda: shown(b"left") and shown(b"MiB/s"), 30, "a bar")
        text = cluster.command("zdfs", "status", "--meta", cluster.meta_port).stdout
        assert "rebuilding" in text and "done in" in text
        until(lambda: shown(b"rebuilt: "), 60)
        assert time.monotonic() - begun > 6_000_000 / 500_000 - 1, "the rate is kept"
    finally:
        watch.send_signal(signal.SIGINT)
        watch.wait(timeout=30)
        os.close(near)
    cluster.wait_serving()
