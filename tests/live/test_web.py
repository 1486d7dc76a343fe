"""`zdfs web` in a browser (headless Chromium): what happens to the cluster is seen on the page."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.conftest import until
from tests.live import files
from tests.live.cluster import BIN, Cluster, free_ports, started
from tests.live.hands import Hand

BLOCK = 4096
SEEN_S = 3.0  # what the status knows, the page shows within: the one promise here of a time
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


class Web:
    """A `zdfs web` that runs."""

    def __init__(self, cluster: Cluster, *more: str):
        self.port = free_ports(1)[0]
        self.log = cluster.folder / f"web-{self.port}.log"
        words = ["web", "--meta", cluster.meta_port, "--listen", self.port, *more]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [str(word) for word in (BIN / "zdfs", *words)], stdout=out, stderr=out
            )
        until(lambda: "look at" in self.said(), 20, "zdfs web listens")
        self.url = f"http://127.0.0.1:{self.port}/"

    def said(self) -> str:
        """What it printed."""
        return self.log.read_text()

    def __enter__(self) -> "Web":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """^C, which is no failure, whoever listens."""
        self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        assert code == 0 or error, self.said()
        assert error or "Traceback" not in self.said(), self.said()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Five servers whose scrub is too slow to heal anything unasked; each test leaves it whole."""
    folder = tmp_path_factory.mktemp("web")
    with started(folder, 5, block_size=BLOCK, more=("--scrub-rate", "1")) as made:
        made.damaged = "the scrub is too slow to sweep what killed servers left"
        yield made


@pytest.fixture(scope="module")
def mount(cluster: Cluster) -> Path:
    return cluster.mount()


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> Iterator[Web]:
    with Web(cluster, "--allow-actions") as made:
        yield made


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page on which nothing may go wrong."""
    context = chromium.new_context(viewport={"width": 1300, "height": 900})
    made = context.new_page()
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on(
        "console", lambda told: wrong.append(told.text) if "Content Security" in told.text else 0
    )
    made.on("dialog", lambda dialog: wrong.append(f"a script ran: {dialog.message}"))
    yield made
    context.close()
    assert not wrong


def shows(page: Page, selector: str, text: str = "", deadline_s: float = 20.0) -> None:
    """Wait until the page has it."""

    def there() -> bool:
        return any(text in one for one in page.locator(selector).all_text_contents())

    until(there, deadline_s, f"{selector} with {text!r}")


pytestmark = pytest.mark.shared  # the browser belongs to the module


def test_a_server_goes_down_and_the_metaserver_too(
    cluster: Cluster, mount: Path, web: Web, page: Page
) -> None:
    page.goto(web.url)
    shows(page, "h1", "All is well")
    shows(page, "#live-text", "live")
    assert page.locator(".node").count() == 5
    page.wait_for_selector('.node[data-slot="1"][data-state="serving"]')

    seen_s = [_seen_down(cluster, page)]
    while seen_s[-1] > SEEN_S and len(seen_s) < 3:  # a machine may be busy once
        cluster.start_data(1)
        shows(page, '.node[data-slot="1"][data-state="serving"]')
        seen_s.append(_seen_down(cluster, page))
    assert min(seen_s) <= SEEN_S
    shows(page, "h1", "1 server is down")
    shows(page, "#reasons", f"zdfs-node data 1 {cluster.ports[0]}")
    shows(page, '#servers tr[data-slot="1"]', "down")
    shows(page, "#events", f"{cluster.ports[1]} is down")
    with Hand(mount) as hand:
        hand.start("fd = os.open('f', os.O_WRONLY | os.O_CREAT); os.write(fd, b'x'); os.fsync(fd)")
        shows(page, "h1", "Writes wait")
        shows(page, "#subline", str(mount))

        cluster.kill("meta")
        shows(page, "h1", "The metaserver does not answer")
        shows(page, "#live-text", "metaserver silent")
        shows(page, "#subline", "ago")
        assert page.locator(".node").count() == 5, "the last known state"
        assert page.locator("#page").get_attribute("data-silent") == "true"
        cluster.start_meta()
        cluster.start_data(1)
        hand.end()
    shows(page, "h1", "All is well", 30)
    shows(page, '.node[data-slot="1"][data-state="serving"]')
    shows(page, "#events", "need not wait")

    web.process.send_signal(signal.SIGSTOP)
    shows(page, "#live-text", "cut off")
    assert page.locator("#page").get_attribute("data-stale") == "true"
    web.process.send_signal(signal.SIGCONT)
    until(lambda: page.locator("#live-text").text_content() == "live", 20, "it goes on")


def _seen_down(cluster: Cluster, page: Page) -> float:
    """Seconds from the status to the page."""
    cluster.kill("data-1")
    until(lambda: "down" in cluster.states(), 30, "the metaserver knows")
    known = time.monotonic()
    shows(page, '.node[data-slot="1"][data-state="down"]')
    return time.monotonic() - known


def test_a_rebuild_moves(
    cluster: Cluster, mount: Path, web: Web, page: Page, dice: random.Random
) -> None:
    files.put(mount / "large", dice.randbytes(1500 * BLOCK))
    page.goto(web.url)
    until(lambda: page.locator("#throughput .value").last.text_content() != "–", 40, "written")
    more = cluster.more
    cluster.kill("data-0")
    shutil.rmtree(cluster.stores[0])
    cluster.more = (*more, "--rebuild-rate", "400000")
    cluster.start_data(0)
    bar = page.locator('#servers tr[data-slot="0"] td[data-label^="Rebuild"] progress').first
    shows(page, '#servers tr[data-slot="0"]', "rebuilt", 30)
    shows(page, '.node[data-slot="0"]', "rebuild ")
    seen: set[str] = set()

    def moves() -> bool:
        if bar.count():
            seen.add(bar.get_attribute("value") or "")
        return len(seen) >= 3

    until(moves, 20, "the bar moves")
    shows(page, '.node[data-slot="0"][data-state="serving"]', deadline_s=40)
    shows(page, "#events", "whole again")
    cluster.more = more


def test_damage_turns_red_and_heals(
    cluster: Cluster, mount: Path, web: Web, page: Page, dice: random.Random
) -> None:
    files.put(mount / "f", dice.randbytes(9 * BLOCK))
    page.goto(f"{web.url}#/f")
    until(lambda: page.locator(".cell.ok").count() == 27, 20, "27 good copies")
    shows(page, ".verdict", "All 27 copies here are good")
    where = cluster.where("/f")["blocks"]
    for cell in page.locator(".cell").all():  # as `zdfs where` has it
        block, replica = cell.get_attribute("data-block"), cell.get_attribute("data-replica")
        found = where[int(block or -1)]["replicas"]["abc".index(replica or "")]
        assert cell.get_attribute("data-slot") == str(found["slot"])

    slot = where[0]["replicas"][1]["slot"]
    done = cluster.command("zdfs-corrupt", cluster.ports[slot], "/f", 1)
    assert done.returncode == 0, done.stderr
    shows(page, ".cell.damaged", "✕")
    shows(page, ".verdict", f"replica b on {cluster.ports[slot]}: damaged")
    red = page.locator(".cell.damaged path").evaluate("one => getComputedStyle(one).fill")
    assert "hatch" in red and page.locator(".blocks td.damaged").count() == 1

    page.click("#scrub")
    page.fill("#token", "wrong")
    page.click("#ask-yes")
    shows(page, "#ask-error", "token")
    page.fill("#token", web.said().split("token: ")[1].strip())
    page.click("#ask-yes")
    shows(page, ".verdict", "All 27 copies here are good", 40)
    assert page.locator(".cell.damaged").count() == 0
    shows(page, "#events", "repaired")


def test_by_hand_and_by_key(mount: Path, web: Web, page: Page, dice: random.Random) -> None:
    """What if; the keyboard; names of any bytes; a phone; the dark."""
    odd = [b"<img src=x onerror=alert(1)>", b"bad\xff\xfe", "a\u202eb".encode(), b"50% #1?&=+"]
    files.do("mkdir", mount / "d")
    with Hand(mount) as hand:
        hand(f"[open(name, 'wb').write(b'x') for name in {odd!r}]")
        hand("[open('d/%03d' % n, 'wb').close() for n in range(450)]")
    files.put(mount / "ten", dice.randbytes(10 * BLOCK))
    page.goto(web.url)
    shows(page, ".listing", "<img src=x onerror=alert(1)>")
    for shown in ("bad\\xff\\xfe", "a\\u{202e}b", "50% #1?&=+", "<img src=x onerror=alert(1)>"):
        page.get_by_role("link", name=shown, exact=True).click()
        shows(page, ".crumbs [aria-current]", shown)
        shows(page, ".about", "1 B in 1 block")
        page.locator(".crumbs a").first.click()
        shows(page, ".listing", "f")
    _by_key(page)
    _many_names(page)
    _smaller(page, web)
    _from_elsewhere(web)


def _by_key(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("nothing/there")
    page.keyboard.press("Enter")
    shows(page, "#files-error", "No such file")
    page.keyboard.press("/")
    page.keyboard.type("/ten")
    page.keyboard.press("Enter")
    shows(page, ".about", "10 blocks")
    page.locator(".node").first.focus()
    for _ in range(3):
        page.keyboard.press("Enter")
        page.keyboard.press("ArrowRight")
    pressed = page.locator('.node[aria-pressed="true"]')
    until(lambda: pressed.count() == 3, what="three servers are supposed down")
    until(lambda: page.locator("tr[data-fate=lost]").count() == 2, 20, "what would be lost")
    shows(page, ".verdict", "2 blocks here would be lost; writes to it would wait")
    shows(page, "#cost-text", "would be gone if those disks never came back")
    assert "down=0,1,2" in page.url
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")
    shows(page, ".verdict", "All 30 copies here are good; writes to it would wait")
    page.keyboard.press("Escape")
    until(lambda: not pressed.count() and "down" not in page.url, what="Esc takes it back")


def _many_names(page: Page) -> None:
    page.evaluate("location.hash = '#/d'")
    rows = page.locator(".listing tbody tr")
    until(lambda: rows.count() == 200, what="a page of names")
    page.click(".more")
    until(lambda: rows.count() == 400, what="more of them")
    page.click(".more")
    until(lambda: rows.count() == 450 and not page.locator(".more").count(), what="all of them")


def _smaller(page: Page, web: Web) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    for address in ("#/", "#/ten?down=0,1,2", "#/d"):
        page.goto(web.url + address)
        page.wait_for_selector(".crumbs a")
        shows(page, "#servers tr", "serving")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360, f"{address}: {wide} pixels"
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert _brightness(dark) < 60 < 200 < _brightness(light)


def _brightness(colour: str) -> float:
    parts = [float(one) for one in colour.strip("rgb()").split(",")]
    return sum(parts) / len(parts)


def _from_elsewhere(web: Web) -> None:
    request = urllib.request.Request(f"{web.url}api/look", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 421


def test_it_ends_at_once_and_says_what_it_lacks(cluster: Cluster, page: Page) -> None:
    web = Web(cluster)
    taken = cluster.command("zdfs", "web", "--listen", web.port)
    assert taken.returncode == 1 and "--listen" in taken.stderr and "in use" in taken.stderr
    page.goto(web.url)
    shows(page, "#live-text", "live")
    cluster.kill("meta")  # a question is underway
    web.process.send_signal(signal.SIGTERM)
    assert until(lambda: web.process.poll() is not None, 10, "it has ended")
    assert web.process.returncode == 0 and "Traceback" not in web.said(), web.said()
    shows(page, "#live-text", "cut off")
    cluster.start_meta()
    cluster.wait_serving()
    code = "import sys; sys.modules['uvicorn'] = None; from zdfs import cli; sys.exit(cli.zdfs())"
    done = subprocess.run(
        [sys.executable, "-c", code, "web"], capture_output=True, text=True, timeout=30,
        cwd=BIN.parent, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 1 and "pip install 'zdfs[web]'" in done.stderr, done.stderr
