"""Names and paths, which are bytes, on their way to a page and back: pure.

key     percent-encoded, only "/" between names: what a browser sends back, whatever the bytes
shown   for people: UTF-8 where it is, and what is not, or can't be seen, as \\xNN or \\u{NNNN}:
        a name must not turn the text around it, or look like another one
"""

import os
from urllib.parse import parse_qsl, quote_from_bytes

from zdfs.errors import StartError

SAFE = "-_.~"
PARAMETERS = 16


def key(path: bytes) -> str:
    """A path, for the browser to keep."""
    return quote_from_bytes(path, safe=SAFE + "/")


def shown(name: bytes) -> str:
    """A name or a path, for people."""
    text = name.decode("utf-8", "surrogateescape")
    return "".join([one if one.isprintable() else _escaped(one) for one in text])


def _escaped(one: str) -> str:
    code = ord(one)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{{{code:x}}}"


def parameters(query: bytes) -> dict[str, bytes]:
    """What stands behind the `?` of an address, byte by byte; the last of equal ones counts.
    StartError: nobody asks so much."""
    try:
        pairs = parse_qsl(
            query.decode("ascii", "replace"), keep_blank_values=True, errors="surrogateescape",
            max_num_fields=PARAMETERS,
        )  # fmt: skip
    except ValueError:
        raise StartError(f"more than {PARAMETERS} parameters") from None
    return {name: os.fsencode(value) for name, value in pairs}


def split(path: bytes) -> list[bytes]:
    """The names on the way."""
    return [name for name in path.split(b"/") if name]


def crumbs(path: bytes) -> list[dict[str, str]]:
    """Each directory on the way, and the path itself."""
    found, way = [{"shown": "/", "key": "/"}], b""
    for name in split(path):
        way += b"/" + name
        found.append({"shown": shown(name), "key": key(way)})
    return found
