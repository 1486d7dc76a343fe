"""What is shipped for Prometheus and Grafana speaks of metrics that exist, and of every check."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from zdfs import health, measures
from zdfs.measures import CATALOGUE, Kind
from zdfs.rates import HOUSEKEEPING

ROOT = Path(__file__).parents[2]
PROCESS = {  # prometheus-client's own, of each process
    "process_cpu_seconds_total", "process_resident_memory_bytes", "process_virtual_memory_bytes",
    "process_start_time_seconds", "process_open_fds", "process_max_fds",
}  # fmt: skip
HERE = {"fuse"}  # checks of this machine, not of a process
FROM_PROMETHEUS = {"job", "instance", "le", "up"}


def exported() -> dict[str, set[str]]:
    """Every name that an expression may use, with its labels."""
    found = {name: set[str]() for name in PROCESS}
    for one in CATALOGUE:
        suffixes = ("_bucket", "_sum", "_count") if one.kind is Kind.HISTOGRAM else ("",)
        found |= {one.name + suffix: set(one.labels) for suffix in suffixes}
    return found


EXPORTED = exported()


def rules() -> list[dict[str, Any]]:
    text = (ROOT / "contrib" / "prometheus" / "alerts.yml").read_text()
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "contrib" / "grafana" / "zdfs.json").read_text())
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """All that is asked of Prometheus: by whom, and what."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]


@pytest.mark.parametrize(
    "who, text", list(expressions()), ids=lambda text: re.sub(r"\W+", "-", text)[:40]
)
def test_expressions_name_metrics_and_labels_that_exist(who: str, text: str) -> None:
    names = re.findall(r"\b((?:zdfs|process)_\w+)(?:\{([^}]*)\})?", text)
    assert names or "up{" in text, f"{who}: {text} asks for nothing"
    for name, selectors in names:
        if name == "zdfs":
            continue
        assert name in EXPORTED, f"{who}: nobody exports {name}"
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selectors))
        assert labels <= EXPORTED[name] | FROM_PROMETHEUS, f"{who}: {name} has no {labels}"
    used = set().union(*[EXPORTED[name] for name, _ in names])
    for listed in re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", text):
        assert set(re.findall(r"\w+", listed)) <= used | FROM_PROMETHEUS, f"{who}: {text}"


def test_what_is_shown_as_load_is_without_housekeeping() -> None:
    left = {one for _, text in expressions() for one in re.findall(r'request!~"([^"]*)"', text)}
    assert {frozenset(one.split("|")) for one in left} == {HOUSEKEEPING}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_a_rule_says_what_it_means_what_to_do_and_why_at_that_threshold(
    rule: dict[str, Any],
) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description", "threshold"}
    assert all(len(text) > 15 for text in rule["annotations"].values())
    assert rule["alert"].startswith("Zdfs")


def test_rules_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))


def test_every_check_of_health_has_a_rule() -> None:
    source = (ROOT / "zdfs" / "health.py").read_text()
    checks = set(re.findall(r'Check\(\s*"([a-z ]+)"', source))
    checks |= set(
        re.findall(r'\bname(?:, \w+)? = (?:status\.copies\.needed, )?"([a-z ]+)"', source)
    )
    assert {"space", "replicas", "metadata copies", "clocks"} <= checks
    assert {rule["labels"].get("check") for rule in rules()} - {None} == checks - HERE


def test_thresholds_are_those_of_health() -> None:
    texts = {rule["alert"]: rule["expr"] for rule in rules()}
    assert f"< {health.LITTLE}" in texts["ZdfsDiskLittle"]
    assert f"{health.SOON_S / 86400:.0f} * 86400" in texts["ZdfsDiskFullSoon"]
    assert f"{health.OLD_S / 86400:.0f} * 86400" in texts["ZdfsScrubOld"]
    assert f"> {health.SKEW_S}" in texts["ZdfsClocks"]
    assert f"< {health.FILES}" in texts["ZdfsFewOpenFiles"]


def test_the_document_shows_the_catalogue() -> None:
    text = (ROOT / "docs" / "MONITORING.md").read_text()
    shown = [line for line in text.splitlines() if line.startswith("| `zdfs_")]
    assert shown == measures.table()[2:], "docs/MONITORING.md: python -c 'from zdfs import " + (
        "measures; print(*measures.table(), sep=chr(10))'"
    )
    assert all(f"`{name}`" in text for name in PROCESS)


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    found = dashboard()
    ids = [panel["id"] for panel in found["panels"]]
    assert len(ids) == len(set(ids)) and found["uid"] == "zdfs" and found["schemaVersion"] >= 36
    for panel in found["panels"]:
        grid = panel["gridPos"]
        assert 0 <= grid["x"] and grid["x"] + grid["w"] <= 24
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
