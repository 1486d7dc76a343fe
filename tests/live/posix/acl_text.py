"""Access control lists: as setfacl writes them, to what linux/posix_acl_xattr.h says."""

import os
import struct

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
TAGS = {"u": (0x01, 0x02), "g": (0x04, 0x08), "m": (0x10, 0), "o": (0x20, 0)}
LETTERS = {0x01: "u", 0x02: "u", 0x04: "g", 0x08: "g", 0x10: "m", 0x20: "o"}
NOBODY = 0xFFFFFFFF


def packed(text: str) -> bytes:
    """The value of an attribute: packed("u::rwx,u:1000:rw-,g::r-x,m::rwx,o::---")."""
    value = struct.pack("<I", 2)
    for entry in filter(None, text.split(",")):
        letter, who, permissions = entry.split(":")
        bits = sum(1 << (2 - place) for place, one in enumerate(permissions) if one != "-")
        number = int(who) if who else NOBODY
        value += struct.pack("<HHI", TAGS[letter][bool(who)], bits, number)
    return value


def text_of(value: bytes) -> str:
    """The other way."""
    assert value[:4] == struct.pack("<I", 2), value
    entries = []
    for tag, bits, number in struct.iter_unpack("<HHI", value[4:]):
        permissions = "".join(
            letter if bits & 4 >> place else "-" for place, letter in enumerate("rwx")
        )
        entries.append(f"{LETTERS[tag]}:{'' if number == NOBODY else number}:{permissions}")
    return ",".join(entries)


def set_acl(name: str, text: str, kind: str = ACCESS) -> None:
    """Give a file a list."""
    os.setxattr(name, kind, packed(text))


def acl(name: str, kind: str = ACCESS) -> str:
    """A file's list; "": it has none."""
    try:
        return text_of(os.getxattr(name, kind))
    except OSError as error:
        assert error.errno == 61, error  # ENODATA
        return ""
