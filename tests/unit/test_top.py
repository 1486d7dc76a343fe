"""Frames of `zdfs top` and the sums of `zdfs profile`, from measures that are made up."""

from typing import Any

import pytest

from zdfs import wire
from zdfs.link import BESIDE, INSIDE
from zdfs.measures import Meter, Role
from zdfs.rates import Between, look
from zdfs.tools import profile, top

META = "127.0.0.1:2222"


def seen(meter: Meter, at_s: float) -> Any:
    return look([meter.page((), "", at_s, 0)])


def frame(**more: Any) -> dict[str, Any]:
    """Facts of a cluster where all is well, but for some."""
    load = dict.fromkeys(
        ("requests_per_s", "in_bytes_per_s", "out_bytes_per_s", "p50_s", "p99_s", "queue", "cpu")
    )
    server = {
        "slot": 1, "address": "3333", "state": "serving", "free_bytes": 2**40,
        "total_bytes": 2**41, "used_bytes": 5, "rebuild": None,
    }  # fmt: skip
    return {
        "at_ns": 10**18,
        "metaserver": {"address": "2222", "answers": True, "note": "", **load},
        "servers": [server | load],
        "mounts": [],
        "writes_blocked": [],
        "sessions": [],
        "events": [],
    } | more


def test_a_frame_fits_a_small_terminal() -> None:
    found = frame(events=[{"at_ns": 0, "kind": "down", "text": "x" * 500}])
    assert all(len(line) <= 40 for line in top.lines(found, 40))


def test_what_came_from_elsewhere_does_not_reach_the_terminal() -> None:
    found = frame(events=[{"at_ns": 0, "kind": "mount", "text": "a\x1b[2Jb\nc"}])
    shown = top.lines(found, 200)
    assert shown[-1].endswith("a?[2Jb?c")


def test_who_is_silent_is_shown_so() -> None:
    meta = frame()["metaserver"] | {"answers": False, "note": "it does not answer"}
    text = "\n".join(top.lines(frame(metaserver=meta, servers=[]), 100))
    assert "metaserver 2222: it does not answer" in text and "SILENT" in text
    assert "which dataservers there are, nobody says" in text
    down = frame()["servers"][0] | {"state": "down"}
    assert "DOWN" in "\n".join(top.lines(frame(servers=[down]), 100))


def test_load_is_that_of_mounts() -> None:
    meter = Meter(Role.DATA)
    before = seen(meter, 10.0)
    for _ in range(8):
        meter.replied(wire.Put, 0.004, 0.002)
        meter.replied(wire.GetStatus, 9.0, 0.0)
    meter.count("zdfs_received_bytes_total", 4096)
    found = top._load((before, seen(meter, 12.0)))
    assert found["requests_per_s"] == 4.0 and found["in_bytes_per_s"] == 2048
    assert 0.0025 < found["p50_s"] <= found["p99_s"] <= 0.005
    assert top._load((None, before))["requests_per_s"] is None


def _worked() -> tuple[Between, list[Between]]:
    """A mount that made directories and closed a file; one server took half of each Make."""
    mount, server = Meter(Role.MOUNT), Meter(Role.META)
    before = seen(mount, 0.0), seen(server, 0.0)
    for _ in range(10):
        mount.answered("mkdir", 0.010, "")
        mount.called(wire.Make, 0.008, None)
        mount.waited("mkdir", {"Make": 0.008})
        server.replied(wire.Make, 0.004, 0.003)
    mount.answered("flush", 0.020, "EIO")
    mount.waited("flush", {INSIDE: 0.019})
    mount.called(wire.Put, 0.018, None)
    mount.waited(BESIDE, {"Put": 0.018})  # of a server that says nothing
    after = seen(mount, 2.0), seen(server, 2.0)
    return Between(before[0], after[0]), [Between(before[1], after[1])]


def test_where_the_time_went() -> None:
    mount, servers = _worked()
    found = profile.facts("/mnt", META, mount, servers, 0.1)
    mkdir, flush = found["operations"]
    assert (mkdir["operation"], mkdir["count"], mkdir["mean_s"]) == ("mkdir", 10, 0.01)
    assert mkdir["parts_s"] == pytest.approx(
        {"client": 0.02, "inside": 0.0, "wire": 0.04, "server": 0.01, "disk": 0.03}
    )
    assert flush["parts_s"]["inside"] == pytest.approx(0.019)
    assert flush["errors"] == {"EIO": 1}
    assert found["background"]["wire"] == pytest.approx(0.018), "who is silent counts as wire"
    total = found["total"]
    assert sum(total["parts_s"].values()) == pytest.approx(total["total_s"]) == 0.12
    assert total["kernel_s"] == pytest.approx(0.1 * 2.0 - 0.12)
    (make,) = [one for one in found["calls"] if one["request"] == "Make"]
    assert make["shares"] == {"wire": 0.5, "server": 0.125, "disk": 0.375}


def test_a_profile_says_what_it_only_estimates() -> None:
    mount, servers = _worked()
    text = profile.text(profile.facts("/mnt", META, mount, servers, None))
    assert "where that is mounted" in text, "root, too, may not see it where it is not"
    assert "kernel    not known" in text and "* estimated" in text and "1 x EIO" in text
    nothing = Between(mount.after, mount.after)
    text = profile.text(profile.facts("/mnt", META, nothing, [], None))
    assert "no server says" in text and "nothing but what the kernel answers by itself" in text


def test_more_server_than_call_is_all_server() -> None:
    """The means of others may be longer than ours."""
    mount, server = Meter(Role.MOUNT), Meter(Role.META)
    before = seen(mount, 0.0), seen(server, 0.0)
    mount.called(wire.Make, 0.001, None)
    server.replied(wire.Make, 0.5, 0.25)
    between = Between(before[0], seen(mount, 1.0)), Between(before[1], seen(server, 1.0))
    assert profile.shares(between[0], [between[1]], "Make") == profile.Shares(0.0, 0.5, 0.5)
    assert profile.shares(between[0], [], "Make") is None
