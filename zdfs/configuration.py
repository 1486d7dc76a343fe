"""The configuration file: which cluster, and what commands need not be told each time.

    meta = "storage1:2222"                            # the metaserver
    data = ["storage1:3333", "storage2:3333", "storage3:3333"]   # dataservers, in ring order
    keys = "/etc/zdfs/keys/given/client"   # commands' and mounts'

    [mount]             # a long option of zdfs-mount, under its name: attr-timeout = 0
    [node]              # ... of zdfs-node meta and zdfs-node data; keys = "/etc/zdfs/keys": theirs
    [node.meta]         # ... of one of the two
    [node.data]

    [cluster.archive]   # all of this again for another cluster; nothing from outside holds there

What may stand in a section is said by a `Schema`, which is made from the commands' own parsers, so
an option that a command gets can be written in the file without a word more.  Here is only the
meaning of texts: no file is opened.

A later file goes over an earlier one, key by key.  One rule more: who names another metaserver
speaks of another cluster, so the ring and the keys of the file below do not hold for it.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zdfs import addresses
from zdfs.errors import StartError

Converter = Callable[[object], Any]  # raises Unfit
Schema = Mapping[str, Mapping[str, Converter]]  # section -> key -> what becomes of its value
CLUSTER = "cluster"
IDENTITY = ("data", "keys")  # what goes with `meta`


class Unfit(ValueError):
    """A value that isn't what its key wants; says what is wanted."""


class Value(NamedTuple):
    """A value and the file that it stands in."""

    value: Any
    source: str
    line: int | None


@dataclass
class Settings:
    """What files say, for one cluster."""

    values: dict[tuple[str, str], Value] = field(default_factory=dict)  # by section and key
    problems: list[str] = field(default_factory=list)
    clusters: set[str] = field(default_factory=set)  # the names that there are

    def get(self, section: str, key: str) -> Any:
        """A value; None: no file says it."""
        found = self.values.get((section, key))
        return None if found is None else found.value


# --- values ------------------------------------------------------------------------------------


def address(value: object) -> str:
    """ "host:port" for a string or a port's number."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Unfit('an address: "HOST:PORT"')
    try:
        return addresses.parse(str(value))
    except StartError as error:
        raise Unfit(f"an address ({error})") from error


def ring(value: object) -> list[str]:
    """Every dataserver's address, none of them twice."""
    if not isinstance(value, list) or not value:
        raise Unfit("a list of addresses, in ring order")
    found = [address(one) for one in value]
    if len(set(found)) != len(found):
        raise Unfit("every address once")
    return found


# --- one file ----------------------------------------------------------------------------------


def read(text: str, source: str, schema: Schema, cluster: str | None = None) -> Settings:
    """What a file says of a cluster (None: the one without a name).  Never raises: what is wrong
    stands in `problems`, each with the place and what was expected."""
    found = Settings()
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found.problems.append(f"{source}: not TOML: {error}")
        return found
    clusters = table.pop(CLUSTER, {})
    if not isinstance(clusters, dict) or not all(isinstance(c, dict) for c in clusters.values()):
        found.problems.append(f"{source}: {CLUSTER}: sections are wanted, [{CLUSTER}.NAME]")
        return found
    found.clusters = set(clusters)
    for name, inner in (None, table), *clusters.items():
        one = _Reader(text, source, schema, () if name is None else (CLUSTER, name), found.problems)
        values = dict(one.section("", inner))
        if name == cluster:
            found.values = values
    return found


class _Reader(NamedTuple):
    """Goes through one cluster's tables."""

    text: str
    source: str
    schema: Schema
    above: tuple[str, ...]
    problems: list[str]

    def section(
        self, section: str, table: dict[str, Any]
    ) -> Iterator[tuple[tuple[str, str], Value]]:
        """The values of a table and of the tables in it."""
        keys = self.schema[section]
        inner = _inner(self.schema, section)
        for key, value in table.items():
            if key in inner:
                if isinstance(value, dict):
                    yield from self.section(inner[key], value)
                else:
                    self._wrong(section, key, f"a section is wanted, [{inner[key]}]")
            elif key in keys:
                try:
                    made = keys[key](value)
                except Unfit as error:
                    self._wrong(section, key, f"{_shown(value)}: wanted is {error}")
                else:
                    yield (section, key), Value(made, self.source, self._line(section, key))
            else:
                self._wrong(section, key, _unknown(key, [*keys, *inner]))

    def _wrong(self, section: str, key: str, what: str) -> None:
        line = self._line(section, key)
        place = self.source if line is None else f"{self.source}, line {line}"
        name = ".".join([*self.above, *([section] if section else []), key])
        self.problems.append(f"{place}: {name}: {what}")

    def _line(self, section: str, key: str) -> int | None:
        wanted = ".".join([*self.above, *([section] if section else [])])
        return line_of(self.text, wanted, key)


def _inner(schema: Schema, section: str) -> dict[str, str]:
    """The sections right below one, by the word that a file has for them."""
    found = {}
    for name in schema:
        above, _, last = name.rpartition(".")
        if name and above == section:
            found[last] = name
    return found


def _unknown(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key.replace("_", "-"), known, 1)
    if close:
        return f"there is no such key; {close[0]!r} perhaps?"
    return f"there is no such key; there are {', '.join(sorted(known)) or 'none here'}"


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, dict) else "a section"
    return text if len(text) <= 60 else text[:57] + "..."


def line_of(text: str, section: str, key: str) -> int | None:
    """The line of a key, from 1, as people write files: [section] alone on a line, key = value."""
    here = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line)
        if header:
            here = re.sub(r"[\s\"']", "", header[1])
            if here == (f"{section}.{key}" if section else key):
                return number
        elif here == section and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
            return number
    return None


# --- several -----------------------------------------------------------------------------------


def merged(files: list[Settings], cluster: str | None = None) -> Settings:
    """Later files over earlier ones."""
    found = Settings()
    for one in files:
        before = found.get("", "meta")
        named = one.get("", "meta")
        if named is not None and before is not None and named != before:
            for place in [place for place in found.values if place[1] in IDENTITY]:
                del found.values[place]
        found.values.update(one.values)
        found.problems += one.problems
        found.clusters |= one.clusters
    if cluster is not None and cluster not in found.clusters and not found.problems:
        names = ", ".join(sorted(found.clusters)) or "none"
        found.problems.append(
            f"--cluster {cluster}: no file has [cluster.{cluster}]; named: {names}"
        )
    _judge(found)
    return found


def _judge(found: Settings) -> None:
    """What only the whole can be asked."""
    meta, data = found.values.get(("", "meta")), found.values.get(("", "data"))
    if meta is not None and data is not None and meta.value in data.value:
        shown = addresses.short(meta.value)
        found.problems.append(f"{data.source}: data: {shown} is the metaserver's address (meta)")
