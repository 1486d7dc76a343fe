"""Sockets with keys, real ones: who gets in, who does not and is told why, and what changes later.

A keyed Broker serves the tiny room of test_broker; our own Link is the client, a raw socket where
nothing of ours may help.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.conftest import until
from tests.contract.test_broker import DONE, US, Here, answer, question
from tests.contract.test_broker import ask as asked
from tests.contract.test_broker import change as changed
from tests.contract.test_link import Asking, Told, serving
from tests.live.cluster import free_ports
from tests.world.stores import MemoryMetaStore
from zdfs import keys, wire
from zdfs.broker import Broker
from zdfs.calls import Peer, call, notify
from zdfs.dialing import Dialer
from zdfs.errors import Mistrusted, Refused, StartError, Unavailable, Unreachable
from zdfs.ids import Ino
from zdfs.keys import Role
from zdfs.link import Link
from zdfs.listener import Listener
from zdfs.tools import keymaking

LinkOf = Callable[[Path | None], Link]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The key directory of a cluster."""
    keymaking.make(tmp_path / "keys", "node")
    return tmp_path / "keys"


@pytest.fixture
def here(folder: Path) -> Iterator[Here]:
    made = Here(folder)
    yield made
    made.close()


@pytest.fixture
def link_of() -> Iterator[LinkOf]:
    """Links under key directories."""
    made: list[Link] = []

    def link(directory: Path | None) -> Link:
        made.append(Link(keys=directory))
        return made[-1]

    yield link
    for one in made:
        one.close()


def ask(link: Link, here: Here, within_s: float = 5.0) -> wire.Reply:
    return link.run(call(Peer(here.address), wire.ReadLink(Ino(1)), within_s))


def allows(here: Here, key: keys.Key) -> bool:
    """Whether the server has looked at its list, and this key is on it."""
    gate = here.broker.listener.gate
    return gate is not None and key.public in gate.allowed


def stands(here: Here, key: keys.Key) -> bool:
    """Whether the server counts this key as it is here."""
    return here.broker.listener.stands(key)


def change(link: Link, here: Here, sequence: int) -> keys.Key | None:
    """Change something; under which key the server took it."""
    link.session = US
    slot = (0, sequence)
    assert link.run(call(Peer(here.address), wire.RemoveXattr(Ino(1), b"done"), 5.0, slot)) == DONE
    return here.room.callers[-1].key


# --- who gets in -------------------------------------------------------------------------------


def test_who_has_a_key_is_known_by_it(here: Here, folder: Path, link_of: LinkOf) -> None:
    laptop, given = keymaking.give(folder, "laptop", may="ro root=/home")
    link = link_of(given)
    assert change(link, here, 1) == laptop
    link.near(Peer(here.address))
    assert change(link, here, 2) == laptop, "the socket inside the machine has keys, too"
    assert here.room.counts["refused"] == 0


def test_without_keys_nobody_gets_in(
    here: Here, link_of: LinkOf, caplog: pytest.LogCaptureFixture
) -> None:
    for endpoint in (f"tcp://{here.address}", f"ipc://@zdfs/{here.address}"):
        plain = here.context.socket(zmq.DEALER)
        plain.setsockopt(zmq.LINGER, 0)
        plain.connect(endpoint)
        plain.send_multipart(question(1))
        assert not plain.poll(200)
    with pytest.raises(Mistrusted, match="wants keys: give --keys DIR"):
        ask(link_of(None), here)
    until(lambda: here.room.counts["refused"] >= 3)
    assert not here.room.callers and "a connection without keys" in caplog.text


def test_an_unknown_key_is_refused_and_told_so(
    here: Here, folder: Path, link_of: LinkOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = keymaking.make(tmp_path / "other", "stranger")
    shutil.copy(folder / "cluster", tmp_path / "other" / "cluster")
    with pytest.raises(Refused, match=r"refused our key stranger \(.{8}\.\.\.\)"):
        ask(link_of(tmp_path / "other"), here)
    until(lambda: "a key that is not allowed" in caplog.text)
    assert stranger.public[:8] in caplog.text and stranger.public not in caplog.text
    assert here.room.counts["refused"] >= 1


def test_a_server_with_another_key_is_not_believed(
    here: Here, link_of: LinkOf, tmp_path: Path
) -> None:
    keymaking.make(tmp_path / "other", "node")
    with pytest.raises(Mistrusted, match="has another key than those that are pinned"):
        ask(link_of(tmp_path / "other"), here)


def test_a_server_without_keys_is_not_believed(folder: Path, link_of: LinkOf) -> None:
    plain = Here()
    try:
        with pytest.raises(Mistrusted, match="has no keys, but --keys was given"):
            ask(link_of(folder), plain)
        assert plain.room.counts["refused"] >= 1
    finally:
        plain.close()


def test_a_server_that_is_down_is_down(folder: Path, link_of: LinkOf) -> None:
    (port,) = free_ports(1)
    with pytest.raises(Unreachable, match="did not answer in time") as caught:
        link_of(folder).run(call(Peer(f"127.0.0.1:{port}"), wire.ReadLink(Ino(1)), 1.0))
    assert not isinstance(caught.value, Mistrusted)


def test_the_port_is_guarded_also_after_all_were_thrown_out(folder: Path) -> None:
    (port,) = free_ports(1)
    context: zmq.Context[Any] = zmq.Context()
    listener = Listener(f"127.0.0.1:{port}", context, zmq.Poller(), folder)
    try:
        assert listener.relieve(0)
        plain = context.socket(zmq.DEALER)
        plain.setsockopt(zmq.LINGER, 0)
        plain.connect(f"tcp://127.0.0.1:{port}")
        plain.send(b"")
        assert not listener.router.poll(300) and listener.strangers(10)
    finally:
        listener.close()
        context.destroy(0)


# --- servers among themselves ------------------------------------------------------------------


def test_servers_speak_under_their_keys(
    here: Here, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One with a key is answered; one without asks in vain, and its log says why."""
    known = Asking(MemoryMetaStore(), Peer(here.address))
    with serving(known, known.store, folder):
        until(lambda: known.heard >= 2)
    assert not known.gone
    plain = Asking(MemoryMetaStore(), Peer(here.address))
    with serving(plain, plain.store):
        until(lambda: "wants keys: give --keys DIR" in caplog.text)
    assert plain.gone and not plain.heard


# --- what changes later ------------------------------------------------------------------------


def test_a_revoked_key_ends_on_open_connections_too(
    here: Here, folder: Path, link_of: LinkOf, caplog: pytest.LogCaptureFixture
) -> None:
    laptop, given = keymaking.give(folder, "laptop")
    bystander, link = link_of(folder), link_of(given)
    dialer = Dialer(here.context, given)
    opened = dialer.dealer(Peer(here.address))
    reply = asked(opened, question(1))
    assert reply == wire.Target(b"0 of 1")
    keymaking.end(folder, "laptop")
    until(lambda: not allows(here, laptop))
    refusal = asked(opened, question(2)).failure()
    assert isinstance(refusal, Refused) and refusal.text == "the key was revoked"
    assert "the key was revoked, from laptop (" in caplog.text
    with pytest.raises(Refused, match="refused our key laptop"):
        ask(link, here, 10.0)
    assert ask(bystander, here)
    opened.close(0)
    dialer.close()


@pytest.mark.parametrize("how", ["cut", "revoked", "as it was"])
def test_what_waits_is_not_done_under_rights_that_are_gone(
    here: Here, folder: Path, how: str
) -> None:
    """A request that was parked when its key was changed; it had been judged by what it could do
    before."""
    laptop, given = keymaking.give(folder, "laptop", may="root=/home")
    dialer = Dialer(here.context, given)
    dealer = dialer.dealer(Peer(here.address))
    asked(dealer, question(1))
    dealer.send_multipart(changed(1, b"park"))
    until(lambda: here.room.started == [b"park"])
    if how == "cut":
        text = (folder / "cluster").read_text().replace("root=/home", "ro root=/home")
        (folder / "cluster").write_text(text)
        until(lambda: not stands(here, laptop))
    elif how == "revoked":
        keymaking.end(folder, "laptop")
        until(lambda: not stands(here, laptop))
    notify(here.room.opened)
    dealer.send_multipart(question(2))  # wakes the server
    replies = dict(answer(dealer) for _ in range(2))
    (reply,) = [reply for head, reply in replies.items() if head.slot == 0]
    if how == "as it was":
        assert reply == wire.Target(b"1")
    else:
        assert isinstance(reply.failure(), Unavailable), "asked again, it is judged anew"
        with here.store.read() as read:
            assert read.get(b"n") is None
    dealer.close(0)
    dialer.close()


def test_who_was_refused_is_heard_again_once_it_is_allowed(
    here: Here, folder: Path, link_of: LinkOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused socket never connects again: whoever sent on one without end heard nobody more."""
    laptop, given = keymaking.give(folder, "laptop")
    _, other = keymaking.give(folder, "other", Role.NODE)
    good = (folder / "cluster").read_text()
    link, told = link_of(given), Told()
    room = Asking(MemoryMetaStore(), Peer(here.address))
    link.session = US
    link.near(Peer(here.address))
    link.attend(told, Peer(here.address))
    with serving(room, room.store, other):
        until(lambda: room.heard)
        keymaking.end(folder, "laptop")
        keymaking.end(folder, "other")
        until(lambda: not allows(here, laptop))
        monkeypatch.setattr("zdfs.broker.MEMORY_BYTES", 0)  # as a restart does: all connect anew
        until(lambda: here.room.counts["connections dropped"])
        monkeypatch.undo()
        until(lambda: room.gone >= 2 and told.beats >= 4, 20, "they are refused")
        (folder / "cluster").write_text(good)
        until(lambda: allows(here, laptop))
        heard, beats = room.heard, here.room.counts["refused"]
        until(lambda: room.heard > heard, 10, "the server is heard again")
        until(
            lambda: here.room.counts["refused"] > beats, 10, "a heartbeat, which nobody serves here"
        )


def test_a_clients_key_is_changed_while_it_works(here: Here, folder: Path, link_of: LinkOf) -> None:
    first, given = keymaking.give(folder, "laptop")
    link = link_of(given)
    assert change(link, here, 1) == first, "it was added just now"
    second, same = keymaking.give(folder, "laptop", another=True)
    assert same == given
    done = iter(range(2, 10_000))
    until(lambda: change(link, here, next(done)) == second, 10, "the new key is in use")
    keymaking.end(folder, "laptop", old=True)
    until(lambda: not allows(here, first))
    assert change(link, here, next(done)) == second


def test_a_servers_key_is_changed(folder: Path, link_of: LinkOf) -> None:
    """The next one is pinned before it is used; clients find out which it is, and go on."""
    _, given = keymaking.give(folder, "laptop")
    keymaking.give(folder, "node", another=True)
    shutil.copy(folder / "cluster", given / "cluster")
    link, before = link_of(given), Here(folder)
    try:
        assert ask(link, before)
    finally:
        before.close()
    (folder / "given" / "node" / "own").rename(folder / "own")
    after = Here(folder, before.address)
    try:
        with pytest.raises(Unreachable, match="has its next key"):
            ask(link, after)
        assert ask(link, after)
    finally:
        after.close()


def test_a_list_that_can_not_be_read_changes_nothing(
    here: Here, folder: Path, link_of: LinkOf, caplog: pytest.LogCaptureFixture
) -> None:
    link = link_of(folder)
    ask(link, here)
    good = (folder / "cluster").read_text()
    (folder / "cluster").write_text("nonsense\n")
    until(lambda: caplog.text.count("the keys as they were count on") >= 1, 5)
    assert ask(link, here) and not here.room.counts["refused"]
    (folder / "cluster").write_text(good)


def test_key_directories_that_no_socket_can_use(folder: Path) -> None:
    context: zmq.Context[Any] = zmq.Context()
    _, given = keymaking.give(folder, "laptop")
    (port,) = free_ports(1)
    with pytest.raises(StartError, match="is for the role client: a node needs"):
        Broker(f"127.0.0.1:{port}", given)
    other, _ = keymaking.give(folder, "desktop")
    (own,) = keys.parse((given / "own").read_text(), "own")
    text = (given / "own").read_text().replace(own.public, other.public)
    (given / "own").write_text(text)
    with pytest.raises(StartError, match="secret is not that of the public key"):
        Dialer(context, given)
    context.destroy(0)
