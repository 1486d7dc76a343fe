"""What is counted: the catalogue keeps its conventions, and pages of it fit into messages."""

from collections.abc import Iterator

import pytest
from prometheus_client.exposition import generate_latest

from zdfs import limits, records, wire
from zdfs.errors import Unavailable
from zdfs.measures import CATALOGUE, Commits, Kind, Meter, Role
from zdfs.ports import Reading
from zdfs.rates import look


def pages(meter: Meter, names: tuple[str, ...] = ()) -> Iterator[wire.Measures]:
    """All of them, one after the other."""
    after = ""
    while True:
        page = meter.page(names, after, 1.5, 7)
        yield page
        after = page.more
        if not after:
            return


def families(meter: Meter) -> set[str]:
    """What Prometheus is told of, samples or not."""
    text = generate_latest(meter.registry).decode()
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}


@pytest.mark.parametrize("one", CATALOGUE, ids=lambda one: one.name)
def test_names_keep_prometheus_conventions(one: object) -> None:
    assert one in CATALOGUE
    name, kind = one.name, one.kind  # type: ignore[attr-defined]
    assert name.startswith("zdfs_") and name == name.lower()
    assert name.endswith("_total") == (kind is Kind.COUNTER)
    assert not name.endswith(("_count", "_sum", "_bucket", "_ms", "_ns", "_kib", "_mib"))
    assert kind is not Kind.HISTOGRAM or name.endswith(("_seconds", "_bytes"))


@pytest.mark.parametrize("role", Role)
def test_a_process_exports_what_the_catalogue_says(role: Role) -> None:
    wanted = {one.name for one in CATALOGUE if role in one.roles}
    assert families(Meter(role)) == wanted


def test_what_is_not_in_the_catalogue_is_not_exported() -> None:
    meter = Meter(Role.DATA)
    meter.sources["bad"] = lambda: [Reading("zdfs_serving", 1)]  # a metaserver's
    with pytest.raises(KeyError):
        list(meter.collect())


def test_a_request_is_counted_once_with_its_times() -> None:
    meter = Meter(Role.META)
    meter.replied(wire.Make, 0.004, 0.003)
    meter.failed(wire.Make, wire.Done())
    meter.failed(wire.Make, wire.Failed.of(Unavailable("not now")))
    meter.called(wire.Append, 0.001, None)
    meter.called(wire.Append, 2.0, Unavailable("no"))
    Commits(meter, "names").took(0.002)
    seen = look(pages(meter))
    assert seen.value("zdfs_request_seconds_count", request="Make") == 1
    assert seen.value("zdfs_request_seconds_sum", request="Make") == pytest.approx(0.004)
    assert seen.value("zdfs_request_seconds_bucket", request="Make", le="0.005") == 1
    assert seen.value("zdfs_request_seconds_bucket", request="Make", le="0.0025") == 0
    assert seen.value("zdfs_request_disk_seconds_total") == pytest.approx(0.003)
    assert seen.by("failure", "zdfs_request_failures_total") == {"Unavailable": 1}
    assert seen.value("zdfs_call_seconds_count", request="Append") == 2
    assert seen.by("failure", "zdfs_call_failures_total") == {"Unavailable": 1}
    assert seen.value("zdfs_commit_seconds_count", store="names") == 1


def test_an_operation_of_a_mount_says_what_it_waited_for() -> None:
    meter = Meter(Role.MOUNT)
    meter.answered("mkdir", 0.005, "")
    meter.answered("mkdir", 0.001, "EEXIST")
    meter.waited("mkdir", {"Make": 0.004})
    seen = look(pages(meter))
    assert seen.value("zdfs_mount_operation_seconds_count", operation="mkdir") == 2
    assert seen.by("errno", "zdfs_mount_errors_total") == {"EEXIST": 1}
    assert seen.by("request", "zdfs_mount_waits_seconds_total") == {"Make": 0.004}


def test_pages_hold_whole_metrics_in_order_and_each_once() -> None:
    meter = Meter(Role.META)
    for kind in wire.BY_OPERATION.values():
        for failure in (None, Unavailable("no")):
            meter.replied(kind, 0.1, 0.0)
            meter.called(kind, 0.1, failure)
    found = list(pages(meter))
    assert len(found) > 1, "all of them fit into one"
    samples = [(one.name, one.labels) for page in found for one in page.samples]
    assert len(samples) == len(set(samples))
    assert {name.split("{")[0] for name, _ in samples} >= {"zdfs_request_seconds_sum"}
    for page in found:
        assert len(records.pack(page)) < limits.HEAD_BYTES
        wire.encode_reply(wire.ReplyHead(*[0] * 6), page)  # type: ignore[arg-type]


def test_a_ring_of_a_thousand_servers_fits_into_messages() -> None:
    meter = Meter(Role.META)
    meter.sources["room"] = lambda: [
        Reading("zdfs_server_state", 1.0, (str(slot), "a" * limits.ADDRESS_BYTES, "recovering"))
        for slot in range(limits.SERVERS)
    ]
    for page in pages(meter):
        assert len(records.pack(page)) < limits.HEAD_BYTES
        assert len(page.samples) <= limits.LIST_ITEMS


def test_metrics_can_be_named() -> None:
    meter = Meter(Role.DATA)
    meter.count("zdfs_sent_bytes_total", 5)
    (page,) = pages(meter, ("zdfs_sent_bytes", "zdfs_no_such_metric"))
    assert [(one.name, one.value) for one in page.samples] == [("zdfs_sent_bytes_total", 5.0)]
    assert (page.role, page.at_ms, page.at_ns, page.more) == ("data", 1500, 7, "")
