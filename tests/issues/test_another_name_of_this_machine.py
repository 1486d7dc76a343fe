"""`zdfs-mount mnt localhost:2222` and `zdfs.connect("localhost:2222")` hung for ever, where the
server is at 127.0.0.1:2222: a client on the same machine went over to an abstract socket, named by
the client's word for the address, and no server has that one.  `connect_timeout_s` did not bound
it, and ^C there was a ConnectionError."""

import errno
from contextlib import closing
from typing import Any

import pytest

import zdfs
from tests.contract.test_broker import Here
from zdfs import addresses, wire
from zdfs.calls import Peer, call
from zdfs.ids import Ino
from zdfs.link import Link

UNTIL_S = 5.0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_near_server_answers_under_each_of_its_names(host: str) -> None:
    with closing(Here()) as here, closing(Link()) as link:
        peer = Peer(f"{host}:{here.address.rpartition(':')[2]}")
        link.run(call(peer, wire.ReadLink(Ino(1)), UNTIL_S))
        link.near(peer)
        link.run(call(peer, wire.ReadLink(Ino(1)), UNTIL_S))
        assert addresses.is_local(peer) == (host == "127.0.0.1")


async def _opens_never(contact: Any) -> None:
    """A metaserver that answers the first question only."""
    await call(Peer("127.0.0.1:1"), wire.Identify(), 600.0)


async def _found(meta: str, patience_s: float) -> None:
    """It was there a moment ago."""


def test_connect_gives_up_on_a_session_that_does_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zdfs.contact.Contact.open", _opens_never)
    monkeypatch.setattr("zdfs.api.connection.find", _found)
    with pytest.raises(ConnectionError, match="connect did not end within") as caught:
        zdfs.connect("127.0.0.1:1", connect_timeout_s=0.3)
    assert caught.value.errno == errno.ECONNREFUSED
