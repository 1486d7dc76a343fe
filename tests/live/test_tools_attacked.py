"""What a careful user met in the commands: one mount under another source (`-o fsname=files`) ended
`zdfs health`, `why`, `top`, `find-open`, `profile` and `du` with an error, on that mount or not;
what could not be printed was a traceback, or looked like an answer; names reached the terminal as
they are."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import until
from tests.live.cluster import BIN, Cluster, free_ports, started
from zdfs.tools.web.serving import CONNECTIONS

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for all of these: none of them breaks anything."""
    with started(tmp_path_factory.mktemp("attacked"), 3, block_size=4096) as made:
        yield made


@pytest.fixture(scope="module")
def odd(cluster: Cluster) -> Path:
    """A mount whose source says no metaserver, as somebody named it."""
    return cluster.mount("odd", "-o", "fsname=files")


@pytest.mark.parametrize(
    ("words", "status"),
    [(("health",), None), (("why",), 0), (("top", "--once", "--every", "0.2"), 0),
     (("find-open", "/"), None), (("du", "/"), 0), (("status",), 0), (("where", "/"), None)],
)  # fmt: skip
def test_a_mount_under_another_source_is_in_nobodys_way(
    cluster: Cluster, odd: Path, words: tuple[str, ...], status: int | None
) -> None:
    done = cluster.command("zdfs", *words, "--meta", cluster.meta_port)
    assert "is no address" not in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert status is None or done.returncode == status, done.stderr


@pytest.mark.parametrize(
    "words", [("why",), ("find-open",), ("du",), ("profile", "--over", "0.1"), ("scrub",)]
)
def test_a_path_on_it_wants_a_metaserver(
    cluster: Cluster, odd: Path, words: tuple[str, ...]
) -> None:
    done = cluster.command("zdfs", *words, odd)
    assert done.returncode in (1, 2)
    assert "'files', names no metaserver: say which with --meta" in done.stderr
    done = cluster.command("zdfs", *words, odd, "--meta", cluster.meta_port, "--json")
    assert done.stderr == "" and json.loads(done.stdout)


# --- output and exit status --------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [("status",), ("health", "--over", "0"), ("du", "/"), ("fsck",), ("bundle", "--list"),
     ("status", "--json"), ("--help",)],
)  # fmt: skip
def test_a_full_disk_behind_the_output_is_said(cluster: Cluster, words: tuple[str, ...]) -> None:
    line = [BIN / "zdfs", *words] + ([] if words[0] == "--help" else ["--meta", meta(cluster)])
    with open("/dev/full", "wb") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.stderr == "zdfs: can't write the output: No space left on device\n"
    assert done.returncode == 2


def meta(cluster: Cluster) -> str:
    """Its metaserver's port, for a command line."""
    return str(cluster.meta_port)


@pytest.mark.parametrize("words", [("health", "--over", "0"), ("fsck",), ("find-open", "/")])
def test_a_closed_pipe_is_no_verdict(cluster: Cluster, words: tuple[str, ...]) -> None:
    hears, says = os.pipe()
    os.close(hears)
    try:
        done = subprocess.run(
            [BIN / "zdfs", *words, "--meta", meta(cluster)],
            stdout=says, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    finally:
        os.close(says)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    "words", [("scrub", "/x"), ("scrub", "--now"), ("find-open", "/"), ("debts",)]
)
def test_nobody_who_answers_is_no_answer(cluster: Cluster, words: tuple[str, ...]) -> None:
    done = cluster.command("zdfs", *words, "--meta", free_ports(1)[0])
    assert done.returncode == 2 and "no metaserver answers" in done.stderr


def interrupted(cluster: Cluster, *words: str) -> tuple[int, str, str]:
    """A command that ^C ends while it waits for servers that say nothing."""
    stopped = [cluster.nodes[f"data-{slot}"] for slot in range(3)]
    asked = cluster.nodes["meta"].pid
    for node in stopped:
        node.send_signal(signal.SIGSTOP)
    try:
        before = _sockets(asked)
        running = subprocess.Popen(
            [BIN / "zdfs", *words, "--meta", meta(cluster)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        until(lambda: _sockets(asked) > before, what="it asks")
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    finally:
        for node in stopped:
            node.send_signal(signal.SIGCONT)
    return running.returncode, out, err


def _sockets(pid: int) -> int:
    """How many the metaserver has: one more once a command has come to it."""
    links = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return sum(link.startswith("socket:") for link in links)


def test_what_was_interrupted_is_no_answer(cluster: Cluster) -> None:
    assert interrupted(cluster, "scrub", "--now") == (2, "", "zdfs: stopped\n")
    assert interrupted(cluster, "top", "--json", "--every", "60") == (130, "", "")


def test_names_do_not_speak_to_the_terminal(cluster: Cluster, odd: Path) -> None:
    name = "f\x1b]0;taken\x07\u00fc"
    (odd / name).write_bytes(b"x")
    plain = os.environ | {"PYTHONIOENCODING": "ascii"}
    for words in (("where",), ("policy",), ("why",), ("find-open",), ("du",)):
        for path, encoding in (
            (f"/{name}", plain),
            (f"/{name}", os.environ),
            (f"/no{name}", plain),
        ):
            done = subprocess.run(
                [BIN / "zdfs", *words, path, "--meta", meta(cluster)],
                capture_output=True, timeout=60, env=encoding,
            )  # fmt: skip
            said = done.stdout + done.stderr
            assert rb"\x1b]0;taken\x07" in said and b"Traceback" not in said, said
            assert not {b"\x1b", b"\x07"} & {bytes([byte]) for byte in said}


# --- the page ----------------------------------------------------------------------------------


def test_who_never_says_what_he_wants_keeps_nobody_out(cluster: Cluster) -> None:
    """As many of them as may be there at once had everybody told 503, for ever."""
    from tests.live.test_web import Web  # here: it wants a browser's library

    with Web(cluster) as web, contextlib.ExitStack() as held:
        sayings = (b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        for number in range(CONNECTIONS + 30):
            one = held.enter_context(socket.create_connection(("127.0.0.1", web.port), 30))
            one.sendall(sayings[number % len(sayings)])
        until(lambda: page(web.url) == 200, what="the page is there")


def page(url: str) -> int:
    """How it answers."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
