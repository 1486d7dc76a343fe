"""What keys may do: words, roles, and who may send what."""

from errno import EACCES, EROFS

import pytest

from zdfs import wire
from zdfs.errors import Posix
from zdfs.ids import ROOT
from zdfs.keys import Key, Role
from zdfs.rights import NEEDS, Need, Rights, needed, of, parse, refusal

ALL = [kind for kind in wire.BY_OPERATION.values() if issubclass(kind, wire.Request)]


def test_words_give_rights() -> None:
    given = ["ro", "root=/home/ada", "root-squash=99:98", "uid=1000:2000", "gid=1:2", "gid=3:4"]
    found = parse(Role.CLIENT, given)
    assert found == Rights(
        Role.CLIENT, False, b"/home/ada", (99, 98), ((1000, 2000),), ((1, 2), (3, 4))
    )
    assert parse(Role.CLIENT, ["root-squash"]).squash == (65534, 65534)
    assert parse(Role.CLIENT, ["root=//a//b/"]).root == b"/a/b"
    assert parse(Role.CLIENT, ["ro", "rw"]).write


@pytest.mark.parametrize(
    "role, given",
    [
        (Role.CLIENT, ["r0"]),
        (Role.CLIENT, ["root=here"]),
        (Role.CLIENT, ["root=/a/../b"]),
        (Role.CLIENT, ["root-squash=1"]),
        (Role.CLIENT, ["root-squash=1:4294967295"]),
        (Role.CLIENT, ["uid=a:1"]),
        (Role.CLIENT, ["uid=1:2", "uid=3:2"]),
        (Role.CLIENT, ["gid=1:2", "gid=1:3"]),
        (Role.NODE, ["ro"]),
        (Role.ADMIN, ["root=/a"]),
    ],
)
def test_what_is_none_is_said(role: Role, given: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        parse(role, given)
    assert given[-1] in str(error.value)


def test_every_request_is_somebodys() -> None:
    missing = [kind.__name__ for kind in ALL if kind not in NEEDS]
    assert not missing, "say in rights.NEEDS who may send these (else only administrators may)"


def test_who_may_send_what() -> None:
    admin, node, client = Rights(Role.ADMIN), Rights(Role.NODE), Rights()
    reader, confined = Rights(write=False), Rights(root=b"/a")
    look, change = wire.GetAttributes(ROOT), wire.Unlink(ROOT, b"f")
    tool, server = wire.GetStatus(), wire.TakeDrops(0, bytes(16), 0)  # type: ignore[arg-type]
    alone = wire.Skip(0, True)  # type: ignore[arg-type]
    table = {
        admin: (None, None, None, None, None),
        node: (EACCES, EACCES, None, None, EACCES),
        client: (None, None, None, EACCES, EACCES),
        reader: (None, EROFS, None, EACCES, EACCES),
        confined: (None, None, EACCES, EACCES, EACCES),
    }
    for rights, expected in table.items():
        for request, number in zip((look, change, tool, server, alone), expected):
            refused = refusal("ada", rights, request)
            assert (refused and refused.number) == number, (rights, request)
            assert refused is None or "ada" in refused.text
        assert refusal("ada", rights, wire.Identify()) is None


def test_an_open_to_write_is_a_change() -> None:
    plain = wire.Open(ROOT, 1, False, False, ROOT, b"f")
    assert needed(plain) is Need.LOOK
    assert needed(wire.Open(ROOT, 1, True, False, ROOT, b"f")) is Need.CHANGE
    assert needed(wire.Open(ROOT, 1, False, True, ROOT, b"f")) is Need.CHANGE
    assert needed(wire.Examine(bytes(16), 1, False)) is Need.TOOL
    assert needed(wire.Examine(bytes(16), 1, True)) is Need.ADMIN


def test_rights_that_a_hand_wrote_wrong_let_nobody_in() -> None:
    key = Key("ada", Role.CLIENT, "k" * 40, "2026-01-01T00:00:00Z", rights="everything")
    with pytest.raises(Posix, match="the rights of the key ada: 'everything'"):
        of(key)
