"""`zdfs keys`: makes, lists and revokes keys; asks no server.

    init DIR                    the key directory of a cluster: its node's key, and DIR/given/admin
    add DIR NAME                a key for one more: DIR/given/NAME, to be carried to it
    list DIR                    whose keys count, and whose did
    revoke DIR NAME             they count no more

`DIR/cluster` is what every node goes by.  Directories in DIR/given are kept up to date; to those
that were carried elsewhere that file is copied after each change.
"""

import argparse
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import zmq

from zdfs import addresses, keys, rights
from zdfs.errors import StartError
from zdfs.keys import Key, Keys, Role
from zdfs.link import Link

ADMIN = "admin"  # whose key every cluster has from the start
COLUMNS = ("name", "role", "key", "created", "state", "at", "rights")


def options(commands: Any) -> None:
    """The arguments of all of them."""
    parser = commands.add_parser("keys", help="make, list and revoke keys")
    kinds = parser.add_subparsers(required=True, metavar="init|add|list|revoke")
    init = kinds.add_parser("init", help="a key directory for a new cluster, and its node's key")
    init.add_argument("--name", default="node", help="the node's name (node)")
    init.set_defaults(do=_init)
    add = kinds.add_parser("add", help="a key for a client, an admin or a node: DIR/given/NAME")
    add.add_argument("--role", choices=list(Role), type=Role, help="what it is for (client)")
    add.add_argument(
        "--another",
        action="store_true",
        help="beside the one that NAME has, to replace it; its role and rights are the same",
    )
    add.add_argument(
        "--at", default="", metavar="ADDR,...",
        help="a node's: at these addresses clients believe no other node's key",
    )  # fmt: skip
    add.add_argument(
        "--rights", default="", metavar="WORDS", help="what a client may not, in one argument: ro, "
        "root=/PATH, root-squash[=UID:GID], uid=LOCAL:OURS, gid=LOCAL:OURS",
    )  # fmt: skip
    add.set_defaults(do=_add)
    shown = kinds.add_parser("list", help="whose keys count")
    shown.add_argument("--json", action="store_true", help="facts with stable keys")
    shown.set_defaults(do=_list)
    revoke = kinds.add_parser("revoke", help="NAME's keys count no more, within seconds")
    revoke.add_argument("--old", action="store_true", help="all but the newest of them")
    revoke.set_defaults(do=_revoke)
    for one in (init, add, shown, revoke):
        one.add_argument("directory", type=Path, metavar="DIR", help="the key directory")
    for one in (add, revoke):
        one.add_argument("name", metavar="NAME", help="whose key")


def _moment() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _pair(name: str, role: Role, at: tuple[str, ...] = (), may: str = "") -> tuple[Key, Key]:
    """A new key: with its secret, and without."""
    if not zmq.has("curve"):
        raise StartError("this ZeroMQ was built without CURVE: install pyzmq from PyPI")
    public, secret = zmq.curve_keypair()
    key = Key(keys.checked_name(name), role, public.decode(), _moment(), at, rights=may)
    return Key(name, role, key.public, key.created, secret=secret.decode()), key


@contextmanager
def _changing(directory: Path) -> Iterator[tuple[Key, ...]]:
    """The cluster's keys, while nobody else changes them.  StartError."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StartError(
            f"{directory}: {error.strerror}: 'zdfs keys init {directory}' makes one"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield keys.load_cluster(directory)
    except OSError as error:
        raise StartError(f"{error.filename or directory}: {error.strerror}") from error
    finally:
        os.close(fd)


def _make(directory: Path, found: Keys, again: bool = False) -> None:
    """A key directory, for nobody but its owner; `own` comes last, so that it is whole then."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=again)
        keys.write(directory / "cluster", found.cluster, 0o600)
        keys.write(directory / "own", [found.own], 0o600)
    except FileExistsError as error:
        raise StartError(f"{directory} is there already: give another, or remove it") from error
    except OSError as error:
        raise StartError(f"{directory}: {error.strerror}") from error


def make(directory: Path, name: str) -> Key:
    """The key directory of a new cluster; its node's key.  StartError."""
    own, public = _pair(name, Role.NODE)
    _make(directory, Keys(own, (public,)))
    return public


def give(
    directory: Path, name: str, role: Role = Role.CLIENT, another: bool = False,
    at: tuple[str, ...] = (), may: str = "",
) -> tuple[Key, Path]:  # fmt: skip
    """One more key, and where it is to be fetched.  StartError."""
    secret, public = _pair(name, role, at, may)
    given = directory / "given" / name
    with _changing(directory) as cluster:
        cluster = keys.added(cluster, public, another)
        public = cluster[-1]
        own = replace(secret, role=public.role)
        if given.exists() and not another:
            raise StartError(f"{given} is there: carry it to its owner, or remove it")
        _store(directory, cluster)  # first: its owner may use it at once
        _make(given, Keys(own, _seen(cluster, own.role)), again=another)
    return public, given


def _seen(cluster: tuple[Key, ...], role: Role) -> tuple[Key, ...]:
    """What a key directory has of a cluster's keys: a client needs the nodes' only."""
    return cluster if role is Role.NODE else tuple(k for k in cluster if k.role is Role.NODE)


def _store(directory: Path, cluster: tuple[Key, ...]) -> None:
    """The list as it is now, here and in the directories that are still in `given`."""
    keys.write(directory / "cluster", cluster, 0o600)
    for own in (directory / "given").glob("*/own"):
        keys.write(own.with_name("cluster"), _seen(cluster, keys.load(own.parent).own.role), 0o600)


def end(directory: Path, name: str, old: bool = False) -> list[Key]:
    """Revoke a name's keys, or all but its newest; those.  StartError."""
    with _changing(directory) as cluster:
        fewer = keys.revoked(cluster, name, old, _moment())
        _store(directory, fewer)
    return [after for before, after in zip(cluster, fewer) if before != after]


def _init(link: Link, chosen: argparse.Namespace) -> int:
    if chosen.name == ADMIN:
        raise StartError(f"--name {ADMIN}: that is the name of your own key")
    public = make(chosen.directory, chosen.name)
    _, given = give(chosen.directory, ADMIN, Role.ADMIN)
    print(f"{chosen.directory}: a cluster's keys; its node is {public.shown}")
    print(f"nodes: --keys {chosen.directory}; your own commands and mounts: --keys {given}")
    print(f"others: zdfs keys add {chosen.directory} NAME")
    return 0


def _add(link: Link, chosen: argparse.Namespace) -> int:
    role = chosen.role or Role.CLIENT
    at = tuple(addresses.parse(one) for one in chosen.at.split(",") if one)
    if chosen.another and (chosen.role or at or chosen.rights):
        raise StartError("--another: role, addresses and rights are those of the key that is there")
    if at and role is not Role.NODE:
        raise StartError("--at is for nodes: a client has no address")
    may = _rights(role, chosen.rights)
    public, given = give(chosen.directory, chosen.name, role, chosen.another, at, may)
    print(f"{public.shown}: allowed as {public.role}")
    print(f"carry {given} to where it is used, by a way that keeps it secret; there: --keys DIR")
    _remind(chosen.directory, public.role is Role.NODE)
    return 0


def _rights(role: Role, text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise StartError(f"--rights {text!r}: ASCII is what a list of keys can hold")
    try:
        rights.parse(role, text.split())
    except ValueError as error:
        raise StartError(f"--rights: {error}") from error
    return " ".join(text.split())


def _remind(directory: Path, clients: bool) -> None:
    """What is still to be done by hand."""
    whom = "nodes and clients" if clients else "nodes"
    print(f"{whom} whose key directory was carried away: copy {directory / 'cluster'} over theirs")


def _list(link: Link, chosen: argparse.Namespace) -> int:
    facts = [
        {
            "name": key.name,
            "role": key.role,
            "key": key.public,
            "created": key.created,
            "revoked": key.revoked or None,
            "at": list(key.at),
            "rights": key.rights or None,
        }
        for key in keys.load_cluster(chosen.directory)
    ]
    print(json.dumps(facts, indent=2) if chosen.json else _table(facts))
    return 0


def _table(facts: list[dict[str, Any]]) -> str:
    rows = [COLUMNS]
    for one in facts:
        state = f"revoked {one['revoked']}" if one["revoked"] else "allowed"
        at = ",".join(addresses.short(address) for address in one["at"])
        row = (one["name"], one["role"], one["key"][: keys.SHOWN], one["created"], state, at)
        rows.append((*row, one["rights"] or ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _revoke(link: Link, chosen: argparse.Namespace) -> int:
    ended = end(chosen.directory, chosen.name, chosen.old)
    for key in ended:
        print(f"{key.shown}: revoked; nodes that use {chosen.directory} know within seconds")
    _remind(chosen.directory, any(key.role is Role.NODE for key in ended))
    return 0
