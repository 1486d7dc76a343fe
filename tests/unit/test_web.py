"""The web page's pure parts: the hour, names, who may ask, a file's picture, the snapshot."""

import json
import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_health_checks import answered, with_health
from tests.unit.test_reasons import META, status
from zdfs import limits, placement, wire
from zdfs.ids import BlockNo, Policy, Slot
from zdfs.tools.web import doors, history, names, picture
from zdfs.tools.web.history import BOUNDS_S, STEP_S, STEPS, Counts, History, Step
from zdfs.tools.web.picture import Block, Replica
from zdfs.tools.web.snapshot import Heard, snapshot
from zdfs.wire import State

# --- the hour ----------------------------------------------------------------------------------


def counts(operations: int = 0, read: int = 0, written: int = 0, *taken: int) -> Counts:
    return Counts(operations, read, written, taken)


def test_what_was_counted_between_two_looks() -> None:
    assert history.less(counts(5, 10, 7, 3, 2), counts(2, 4, 7, 1, 1)) == counts(3, 6, 0, 2, 1)


@pytest.mark.parametrize("old", [counts(9), counts(0, 99), counts(0, 0, 0, 9, 0), counts(0)])
def test_a_server_that_started_anew_began_at_nought(old: Counts) -> None:
    new = counts(5, 10, 7, 3, 2)
    assert history.less(new, old) == new


@given(st.lists(st.tuples(*[st.integers(0, 9)] * 3), min_size=2, max_size=40))
def test_an_hour_adds_up(grown: list[tuple[int, int, int]]) -> None:
    """What the steps say together is what was counted from the first look to the last."""
    one, total = History(), counts()
    for number, more in enumerate(grown):
        total = history.plus(total, counts(*more))
        one.look(100.0 + 4 * number, total)
    found = history.together([step for _, step in one.steps])
    assert found.counts[:3] == history.less(total, counts(*grown[0]))[:3]
    assert sum(step.watched_s for _, step in one.steps) == pytest.approx(4 * (len(grown) - 1))


def test_silence_is_a_gap() -> None:
    one = History()
    for at_s, found in ((0.0, counts(1)), (9.0, counts(9)), (20.0, None), (31.0, counts(50))):
        one.look(at_s, found)
    assert [number for number, _ in one.steps] == [0] and one.steps[0][1].counts.operations == 8
    assert history.rates(one.now) is None, "nobody knows when the 41 were"
    one.look(35.0, counts(58))
    assert history.rates(one.now) == {
        "operations_per_s": 2.0, "read_bytes_per_s": 0, "written_bytes_per_s": 0,
        "half_within_ms": None, "most_within_ms": None,
    }  # fmt: skip
    assert [number for number, _ in one.steps] == [0, 3]


def test_looks_too_far_apart_say_nothing() -> None:
    one = History()
    one.look(0.0, counts(1))
    one.look(history.LATE_S + 1, counts(1000))
    assert not one.steps


def test_a_chart_is_an_hour_of_steps_the_newest_last() -> None:
    one, other = History(), History()
    for number in range(STEPS + 50):
        for each in (one, other):
            each.look(float(number * STEP_S + 1), counts(10 * number, 0, 100 * number))
    at_s = float((STEPS + 49) * STEP_S + 1)
    chart = history.chart([one, other], at_s)
    assert len(chart) == STEPS and None not in chart[1:]
    assert chart[-1] is not None and chart[-1]["operations_per_s"] == 2.0, "both together"
    assert chart[-1]["written_bytes_per_s"] == 20
    assert history.chart([one], at_s + 3 * STEP_S)[-2:] == [None, None]
    assert history.chart([], 5.0) == [None] * STEPS


def test_within_which_time_most_answers_came() -> None:
    bounds = (1.0, 2.0, 4.0)
    assert history.share(bounds, (0, 0, 0, 0), 0.5) is None
    assert history.share(bounds, (10, 0, 0, 0), 0.5) == 0.5
    assert history.share(bounds, (5, 0, 5, 0), 0.75) == 3.0
    assert history.share(bounds, (0, 0, 0, 7), 0.5) == 4.0, "above the last bound: that"


def test_measures_are_read() -> None:
    def sample(name: str, value: float, **labels: str) -> wire.Sample:
        return wire.Sample(name, tuple(wire.Label(*one) for one in labels.items()), value)

    found = history.counted(
        [
            sample("zdfs_received_bytes_total", 500.0),
            sample("zdfs_sent_bytes_total", 70.0),
            sample("zdfs_request_seconds_bucket", 2.0, request="Get", le=str(BOUNDS_S[0])),
            *[
                sample("zdfs_request_seconds_bucket", 3.0, request="Get", le=str(bound))
                for bound in BOUNDS_S[1:]
            ],
            sample("zdfs_request_seconds_bucket", 4.0, request="Get", le="+Inf"),
            sample("zdfs_request_seconds_count", 4.0, request="Get"),
            sample("zdfs_request_seconds_count", 99.0, request="Identify"),
            sample("zdfs_request_seconds_sum", 99.0, request="Get"),
        ]
    )
    between = (0,) * (len(BOUNDS_S) - 2)
    assert found == Counts(4, 70, 500, (2, 1, *between, 1))
    assert history.rates(Step(2.0, found))["operations_per_s"] == 2.0  # type: ignore[index]


# --- names -------------------------------------------------------------------------------------


@given(st.binary(max_size=60).map(lambda raw: raw.replace(b"\0", b"")))
def test_a_path_comes_back_whatever_its_bytes(path: bytes) -> None:
    key = names.key(path)
    assert key.isascii() and not set(key) & set("<>\"'&#? ")
    assert names.parameters(f"path={key}&down=1".encode())["path"] == path
    assert all(one.isprintable() for one in names.shown(path))


def test_names_are_shown_as_they_are_or_escaped() -> None:
    assert names.shown("Grüße ☃ <b>".encode()) == "Grüße ☃ <b>"
    assert names.shown(b"bad\xff\n\x1b[31m") == "bad\\xff\\x0a\\x1b[31m"
    assert names.shown("a\u202egpj.exe".encode()) == "a\\u{202e}gpj.exe", "nothing runs backwards"


def test_crumbs() -> None:
    assert names.crumbs(b"/a b//\xff") == [
        {"shown": "/", "key": "/"},
        {"shown": "a b", "key": "/a%20b"},
        {"shown": "\\xff", "key": "/a%20b/%FF"},
    ]


# --- who may ask -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost:8080", "127.0.0.1", "[::1]:80", "10.0.0.7:8080", "node-1:9", "NODE-1."]
)
def test_hosts_that_are_ours(host: str) -> None:
    assert doors.host_allowed(host, ("node-1",))


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a b", "node-1@evil",
     "[::1", "node-1:80:80", "localhost/", "node-1\n"],
)  # fmt: skip
def test_hosts_that_are_not(host: str) -> None:
    assert not doors.host_allowed(host, ("node-1",))


def test_other_sites_may_only_link_to_the_page() -> None:
    assert doors.site_allowed("/api/look", "", "") and doors.site_allowed("/", "none", "navigate")
    assert doors.site_allowed("/api/look", "same-origin", "cors")
    assert doors.site_allowed("/", "cross-site", "navigate")
    for site in ("cross-site", "same-site"):
        assert not doors.site_allowed("/api/cost", site, "no-cors")
        assert not doors.site_allowed("/api/scrub", site, "navigate")
        assert not doors.site_allowed("/", site, "no-cors")


# --- a file on the ring ------------------------------------------------------------------------


@given(st.integers(3, 40), st.sampled_from([8, 4096, 65536, limits.MIB]))
def test_a_page_is_whole_groups(servers: int, block_bytes: int) -> None:
    count = picture.page_blocks(servers, block_bytes)
    assert count % servers == 0 and 1 <= count // servers <= max(picture.GROUPS, 4)
    affordable = max(picture.BLOCKS_MIN, picture.READ_BYTES // (3 * block_bytes), servers)
    assert count <= min(affordable, picture.BLOCKS_MAX)


def test_a_page_of_a_giant_ring_is_bounded() -> None:
    assert picture.page_blocks(limits.SERVERS, 8) == picture.BLOCKS_MAX


def block(*states: str, number: int = 0, servers: int = 5) -> Block:
    where = placement.slots(Slot(0), BlockNo(number), servers)
    held = [Replica(slot, state) for slot, state in zip(where, states)]
    return Block(BlockNo(number), "1.1", 9, tuple(held))


@pytest.mark.parametrize(
    ("states", "down", "silent", "fate"),
    [
        (("ok", "ok", "ok"), (), (), "fine"),
        (("ok", "ok", "ok"), (0, 1), (), "fine"),
        (("ok", "ok", "ok"), (0, 1, 2), (), "lost"),
        (("ok", "ok", "down"), (0, 1), (2,), "unread"),
        (("ok", "ok", "down"), (0, 1), (), "unread"),  # silent, and the metaserver doesn't know yet
        (("ok", "damaged", "ok"), (0, 2), (), "lost"),  # a bad copy saves nobody
        (("ok", "missing", "owed"), (0,), (), "lost"),
        (("ok", "missing", "owed"), (1, 2), (), "fine"),
        (("damaged", "damaged", "damaged"), (), (), "lost"),
        (("damaged", "damaged", "down"), (), (2,), "unread"),
    ],
)
def test_what_becomes_of_a_block(
    states: tuple[str, ...], down: tuple[int, ...], silent: tuple[int, ...], fate: str
) -> None:
    away = picture.outage(map(Slot, down), map(Slot, silent))  # type: ignore[arg-type]
    assert picture.fate(block(*states), away) == fate


def test_a_drawn_page() -> None:
    blocks = [block("ok", "ok", "ok", number=n) for n in range(5)]
    away = picture.outage([Slot(0), Slot(1), Slot(2)], [])
    drawn = picture.drawn(blocks, away, Policy.ALL, 5)
    assert drawn["counts"] == {"fine": 4, "unread": 0, "lost": 1} and drawn["writes_wait"]
    assert [one["replica"] for one in drawn["blocks"][3]["replicas"]] == ["a", "b", "c"]
    assert [one["slot"] for one in drawn["blocks"][3]["replicas"]] == [3, 4, 0]
    on = {(one["slot"], one["replica"]) for each in drawn["blocks"] for one in each["replicas"]}
    assert len(on) == 15, "each sector has one replica a, b and c of each group"
    assert not picture.drawn(blocks, picture.outage([Slot(0)], []), Policy.QUORUM, 5)["writes_wait"]


# --- the snapshot ------------------------------------------------------------------------------


def heard(found: wire.Status | None = None, **more: Any) -> Heard:
    there = Heard(META, 10**18, "1.0", "fastcrc", found is not None, "", found)
    return replace(there, **more)


def test_a_snapshot_has_what_is_shown() -> None:
    loads = {status().servers[0].member.address: {"read_bytes_per_s": 5}}
    shown = snapshot(heard(status(), loads=loads, last_event=7))
    assert json.loads(json.dumps(shown)) == shown
    assert shown["known"] and shown["metaserver"]["answers"] and shown["last_event"] == 7
    assert [one["state"] for one in shown["servers"]] == ["serving"] * len(status().servers)
    assert shown["servers"][0]["load"] == {"read_bytes_per_s": 5}
    assert shown["servers"][1]["load"] is None
    shown_checks = {one["name"] for one in shown["health"]["checks"]}
    assert "dataservers" in shown_checks and not shown_checks & {"fuse", "open files", "pace"}


def test_a_server_that_is_down_is_a_reason() -> None:
    shown = snapshot(heard(status(s1=State.DOWN)))
    assert shown["servers"][1]["state"] == "down" and shown["health"]["state"] == "critical"
    assert any(one["kind"] == "down" and one["unblock"] for one in shown["reasons"])


def test_a_rebuild_and_a_scrub() -> None:
    scrub = wire.ScrubStatus(5, 0, 10, 100, 7, 1, 1, 0, 2)
    rebuild = wire.Rebuild(1, 4, 100, 1000, 400, 100)
    one, *_ = snapshot(heard(with_health(0, rebuild=rebuild, scrub=scrub)))["servers"]
    assert one["rebuild"]["done_bytes"] == 100 and one["rebuild"]["eta_s"] == 3.0
    assert one["scrub"]["underway"] and one["scrub"]["found"] == 2 and one["scrub"]["healed"] == 2


def test_a_silent_metaserver_leaves_the_last_known_state() -> None:
    shown = snapshot(heard(status(), answers=False, age_s=12.34))
    assert shown["known"] and not shown["metaserver"]["answers"]
    assert shown["metaserver"]["age_s"] == 12.3 and shown["servers"]
    assert [one["kind"] for one in shown["reasons"]] == ["metaserver"]
    nothing = snapshot(heard())
    assert not nothing["known"] and nothing["servers"] == []


def test_a_metaserver_that_refuses_us_is_not_a_silent_one() -> None:
    shown = snapshot(heard(answers=False, refusal="this needs an admin's key"))
    (one,) = shown["reasons"]
    assert (
        one["kind"] == "refused" and "an admin's key" in one["what"] and "--keys" in one["unblock"]
    )


def test_releases_are_compared_with_ours() -> None:
    def releases(**more: Any) -> dict[str, str]:
        checks = snapshot(heard(status(), **more))["health"]["checks"]
        (one,) = [check for check in checks if check["name"] == "releases"]
        return dict(one)

    identity = replace(answered().identity, protocols=wire.spoken())
    same = {META: answered()._replace(identity=identity)}
    assert releases(identities=same)["state"] == "ok"
    old = releases(identities=same, misfits={"127.0.0.1:3333": "upgrade it"})
    assert old["state"] == "critical" and old["advice"] == "upgrade it" and "3333" in old["text"]


def test_surrogates_are_bytes() -> None:
    assert names.parameters(b"path=/%ff") == {"path": b"/\xff"} == {"path": os.fsencode("/\udcff")}
