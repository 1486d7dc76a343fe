"""Where mounts of two clusters are on one machine, `zdfs why` asked the metaserver of one of them
and put the other's mounts beside it: it named a dataserver of another cluster as what was in the
way, not the one that was, and told of failures of another file with the same inode number."""

import pytest

from tests.unit.test_reasons import said, status
from zdfs import wire
from zdfs.ids import Ino
from zdfs.processes import Mounted, Thread
from zdfs.reasons import Seen
from zdfs.tools import why

OURS, OTHER = "127.0.0.1:2222", "127.0.0.1:7222"
REFUSED = wire.Refusal(10**18, "write", Ino(9), b"", b"/x", 99, 0, 5, "a disk of theirs")


@pytest.fixture(autouse=True)
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two mounts, the other cluster's first; both metaservers answer."""
    there = {1: Mounted("/theirs", OTHER), 2: Mounted("/ours", OURS)}
    heard = {"/theirs": said(meta=OTHER, refusals=(REFUSED,)), "/ours": said(meta=OURS)}

    def see(sources: set[str] | None) -> list[Seen]:
        return [
            Seen(one.directory, heard[one.directory]) for one in there.values()
            if sources is None or one.source in sources
        ]  # fmt: skip

    monkeypatch.setattr("zdfs.processes.mounts", lambda pid="self": there)
    monkeypatch.setattr(why, "see", see)
    monkeypatch.setattr(why, "status", lambda link, meta: status())
    monkeypatch.setattr(why, "_disputed", lambda link, facts, ino: None)
    monkeypatch.setattr(why, "_find", lambda link, meta, path: Ino(9))
    monkeypatch.setattr(why, "_with_file", lambda link, facts, ino: facts)


@pytest.mark.parametrize("subject", [None, "/mine"])
def test_the_configured_cluster_is_asked_and_its_mounts(subject: str | None) -> None:
    told = why.why(None, subject, None, OURS)  # type: ignore[arg-type]
    assert told["metaserver"] == "2222"
    assert [one["directory"] for one in told["mounts"]] == ["/ours"] and not told["failures"]


def test_a_process_is_asked_about_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = Thread(99, "cat", "D", "read", 3, "/theirs", Ino(9), "")
    monkeypatch.setattr("zdfs.processes.threads", lambda pid: [thread])
    told = why.why(None, "99", None, OURS)  # type: ignore[arg-type]
    assert told["metaserver"] == "7222"
    assert [one["directory"] for one in told["mounts"]] == ["/theirs"] and told["failures"]


def test_where_only_another_is_mounted_that_is_meant() -> None:
    told = why.why(None, None, None, "127.0.0.1:9222")  # type: ignore[arg-type]
    assert told["metaserver"] == "7222"
