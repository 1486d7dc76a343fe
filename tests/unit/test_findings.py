"""What a report says: its status is its worst finding, its size is bounded, its keys are stable."""

import json

from zdfs import findings
from zdfs.findings import SORTS, Finding, Report
from zdfs.ids import Ino


def report(*kinds: str) -> Report:
    """One finding of each."""
    made = Report(records=5, replicas=6, versions=7)
    for kind in kinds:
        made.add(Finding(kind, Ino(9), "so it is", path=b"/a\xff"))
    return made


def test_the_status_is_that_of_the_worst() -> None:
    assert report().status == 0
    for kind, sort in SORTS.items():
        assert report(kind).status == sort.severity in (1, 2)
    assert report("surplus", "lost", "links").status == 2
    unfinished = report()
    unfinished.could_not("the dataserver 1 is down")
    unfinished.could_not("the dataserver 1 is down")
    assert unfinished.status == 2 and len(unfinished.unfinished) == 1
    assert "in its place" not in findings.text(unfinished)


def test_more_findings_are_counted_and_not_kept() -> None:
    many = report(*["missing"] * (findings.MOST_FINDINGS + 5))
    assert many.counts["missing"] == 1005 and len(many.findings) == 1000
    shown = findings.text(many)
    assert "found: 1005 missing" in shown and "... and 985 more" in shown
    assert len(shown.splitlines()) < 30
    assert findings.facts(many)["counts"] == {"missing": 1005}


def test_the_worst_comes_first_and_every_kind_says_what_happens_next() -> None:
    shown = findings.text(report(*SORTS)).splitlines()
    found = [line.split()[2].rstrip(":") for line in shown if line.startswith("found:")]
    assert sorted(found) == sorted(SORTS)
    severities = [SORTS[kind].severity for kind in found]
    assert severities == sorted(severities, reverse=True)
    assert sum(line.startswith("    next: ") for line in shown) == len(SORTS)


def test_any_path_can_be_printed_and_put_into_json() -> None:
    facts = json.loads(json.dumps(findings.facts(report("lost"))))
    assert facts["findings"][0]["path"] == "/a\udcff"
    findings.text(report("lost")).encode()


def test_what_was_mended_is_said_beside_what_is_left() -> None:
    before = report("links", "lost")
    before.add(Finding("nameless", Ino(3), "no name", mended="it is /lost+found/#3 now"))
    shown = findings.text(report("lost"), before)
    assert "mended: 1 of 3" in shown and "left: 1 lost" in shown and "/lost+found/#3" in shown
    facts = findings.facts(report("lost"), before)
    assert facts["status"] == 2 and facts["counts"] == {"lost": 1}
    assert facts["repaired"]["mended"] == 1 and facts["repaired"]["counts"]["nameless"] == 1
