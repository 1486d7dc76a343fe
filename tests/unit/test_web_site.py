"""What the web page's server answers, without a cluster: its doors, its parts, its words."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.unit.test_reasons import status
from zdfs import wire
from zdfs.errors import Posix, Unavailable
from zdfs.link import Link
from zdfs.tools.web import doors
from zdfs.tools.web.browse import Browser, Fresh
from zdfs.tools.web.history import STEPS
from zdfs.tools.web.poller import Board
from zdfs.tools.web.site import Site

NOBODY = "127.0.0.1:9"  # no metaserver is there
HERE = "http://localhost"


class Case:
    """A site whose metaserver is away."""

    def __init__(self, link: Link, token: str = ""):
        self.board, self.scrubs = Board(), 0
        browser = Browser(link, NOBODY, lambda: self.board.status)
        site = Site(self.board, browser, self.scrub if token else None, token, ("node-1",))
        self.client = TestClient(site.app(), base_url=HERE, raise_server_exceptions=False)

    def scrub(self) -> None:
        """Somebody asked for one."""
        self.scrubs += 1

    def get(self, path: str, **headers: str) -> Any:
        """An answer."""
        return self.client.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})


@pytest.fixture
def link() -> Iterator[Link]:
    made = Link()
    yield made
    made.close()


@pytest.fixture
def case(link: Link) -> Case:
    return Case(link)


def test_the_page_and_its_parts(case: Case) -> None:
    page = case.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "<script" in page.text and "onclick" not in page.text and "style=" not in page.text
    parts = [word.split('"')[0] for word in page.text.split('="/static/')[1:]]
    assert {"page.css", "page.js"} <= set(parts)
    for part in {*parts, "ring.js", "files.js", "panels.js", "charts.js", "text.js"}:
        answer = case.get(f"/static/{part}")
        assert answer.status_code == 200, part
        assert "http://" not in answer.text.replace("http://www.w3.org", ""), "nothing from afar"
        again = case.get(f"/static/{part}", if_none_match=answer.headers["etag"])
        assert again.status_code == 304 and not again.content


def test_every_answer_says_what_a_browser_may_do(case: Case) -> None:
    for path in ("/", "/static/page.js", "/api/hour", "/nothing", "/api/look?first=x"):
        answer = case.get(path)
        for name, value in doors.HEADERS.items():
            assert answer.headers[name] == value, path
    assert "unsafe" not in doors.HEADERS["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.example", "", "localhost.evil.example"])
def test_a_name_that_is_not_ours_gets_nothing(case: Case, host: str) -> None:
    answer = case.get("/api/hour", host=host)
    assert answer.status_code == 421 and "--name" in answer.text
    assert case.get("/api/hour", host="node-1:8080").status_code == 200


def test_another_site_gets_nothing(case: Case) -> None:
    answer = case.get("/api/hour", sec_fetch_site="cross-site", sec_fetch_mode="no-cors")
    assert answer.status_code == 403
    link_to_it = case.get("/", sec_fetch_site="cross-site", sec_fetch_mode="navigate")
    assert link_to_it.status_code == 200


def test_nothing_but_what_is_there(case: Case) -> None:
    for path in ("/static/../site.py", "/static/%2e%2e/site.py", "/static/", "/api", "/docs"):
        assert case.get(path).status_code == 404, path
    for path in ("/", "/api/look", "/api/hour", "/api/live"):
        assert case.client.post(path).status_code == 405, path
        assert case.client.delete(path).status_code == 405, path
    assert case.client.post("/api/scrub").status_code == 404, "it was not asked for"


@pytest.mark.parametrize(
    "path",
    ["/api/look?first=x", "/api/look?first=-1", "/api/look?down=9", "/api/look?down=a",
     "/api/cost", "/api/cost?down=,", "/api/events?after=1e9", f"/api/look?path={'a/' * 3000}",
     f"/api/look?after={'a' * 300}", "/api/cost?down=99999999999999999999",
     "/api/look?" + "&".join(["a=1"] * 50)],
)  # fmt: skip
def test_bad_questions_get_words(case: Case, path: str) -> None:
    case.board.post({}, status())
    answer = case.get(path)
    assert answer.status_code == 400 and answer.json()["error"], answer.text


def test_a_metaserver_that_is_away_is_said(case: Case) -> None:
    answer = case.get("/api/look?path=/a")
    assert answer.status_code == 503 and "127.0.0.1:9" in answer.json()["error"]
    assert case.get("/api/hour").json()["steps"] == [None] * STEPS


def test_events_are_kept_and_told_once(case: Case) -> None:
    told = tuple(wire.Happened(n, n, "down", f"<b>{n}</b>") for n in range(1, 900))
    assert case.board.happened(told) == 899
    assert case.board.happened(told[-5:]) == 899, "no event comes twice"
    found = case.get("/api/events?after=890").json()["events"]
    assert [one["number"] for one in found] == list(range(891, 900))
    assert len(case.get("/api/events?after=0").json()["events"]) == 200


def test_snapshots_come_and_end(case: Case) -> None:
    case.board.post({"servers": []}, None)
    with case.client.stream("GET", "/api/live") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        seen = [next(lines) for _ in range(6)]
        assert "event: hello" in seen and 'data: {"servers": [], "number": 1}' in seen
        case.board.post({"servers": []}, None)
        assert any("number" in line for line in [next(lines) for _ in range(3)])
        case.board.end()
        assert not [line for line in lines if line], "it ends, and the server can"


def test_an_action_wants_the_token(link: Link) -> None:
    case = Case(link, "s3cret")
    assert case.client.post("/api/scrub").status_code == 403
    wrong = case.client.post("/api/scrub", headers={"x-zdfs-token": "S3cret"})
    assert wrong.status_code == 403 and "printed" in wrong.json()["error"] and not case.scrubs
    assert case.get("/api/scrub").status_code == 405
    right = case.client.post("/api/scrub", headers={"x-zdfs-token": "s3cret"})
    assert right.status_code == 200 and case.scrubs == 1


# --- answers that are shared -------------------------------------------------------------------


def test_who_asks_the_same_shares_the_answer() -> None:
    fresh, asked, go = Fresh(), [], threading.Event()

    def slow() -> str:
        asked.append(1)
        go.wait(10)
        return "answer"

    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(fresh.get("key", 10, slow))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert found == ["answer"] * 5 and len(asked) == 1
    assert fresh.get("other", 10, lambda: 1) == 1
    assert fresh.get("key", 0, lambda: "newer") == "newer", "too old by now"


@pytest.mark.parametrize("error", [Posix(2), Unavailable("later"), ZeroDivisionError()])
def test_a_failure_is_told_and_not_kept(error: Exception) -> None:
    fresh = Fresh()

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        fresh.get("key", 10, fail)
    assert fresh.get("key", 10, lambda: "better") == "better"


def test_answers_are_forgotten() -> None:
    fresh = Fresh()
    for number in range(2000):
        fresh.get(number, 10, lambda: number)
    assert len(fresh._answers) <= 257
