"""A script as bytes: what a fuzzer mutates, what is kept of a crash.

    one byte     whom it is for (0: the metaserver), and MORE if the next frame is of this message
    two bytes    how long the frame is; what is missing in the end is left out
    the frame

Any bytes are a script, and a script that was read and written is the same.
"""

from collections.abc import Sequence

Script = list[tuple[int, list[bytes]]]
MORE = 0x80
LONGEST = 0xFFFF


def pack(script: Sequence[tuple[int, Sequence[bytes]]]) -> bytes:
    """A script as bytes; frames that are too long are cut."""
    said = bytearray()
    for target, frames in script:
        for place, frame in enumerate(frames, 1):
            some = bytes(frame[:LONGEST])
            said.append(target & ~MORE | (MORE if place < len(frames) else 0))
            said += len(some).to_bytes(2, "big") + some
    return bytes(said)


def unpack(data: bytes) -> Script:
    """The script that bytes are."""
    script: Script = []
    at, more = 0, False
    while at + 3 <= len(data):
        first, length = data[at], int.from_bytes(data[at + 1 : at + 3], "big")
        frame = data[at + 3 : at + 3 + length]
        at += 3 + length
        if more:
            script[-1][1].append(frame)
        else:
            script.append((first & ~MORE, [frame]))
        more = bool(first & MORE)
    return script
