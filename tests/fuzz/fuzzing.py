"""What is fuzzed, and how a script becomes another one.

    decode      each message of a script, as a server and as a mount would read it
    dispatch    the script to a metaserver and dataservers of the simulated world (`siege`)

A simulated cluster is used for many scripts, so a crash is kept as all that was said to its
cluster, without what the crash does not need (`smallest`).
"""

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.fuzz import scripts, spoil
from tests.fuzz.sayings import GOOD, HERE, frames_of
from tests.fuzz.scripts import Script
from tests.fuzz.siege import Siege, recorded

from zdfs import wire
from zdfs.errors import BadMessage
from zdfs.ids import Round

HOME = Path(__file__).parent
CORPUS, CRASHES = HOME / "corpus", HOME / "crashes"
PLAYED = 100  # scripts on one cluster; then it must be whole, and is made anew
SMALL_BYTES = 2000  # of a seed
SMALLEST_S = 120.0  # to look for the part of a script that a crash needs


def decode(script: Script) -> None:
    """BadMessage is the only way out; what is a message is said again as it was."""
    for _, frames in script:
        with contextlib.suppress(BadMessage):
            head, request = wire.decode_request(frames)
            again = [bytes(one) for one in wire.encode_request(head, request)]
            assert wire.decode_request(again) == (head, request)
        with contextlib.suppress(BadMessage):
            told, reply = wire.decode_reply(frames)
            again = [bytes(one) for one in wire.encode_reply(told, reply)]
            assert wire.decode_reply(again) == (told, reply)


def dispatch(script: Script) -> None:
    """A whole life of a cluster."""
    siege = Siege()
    siege.play(script)
    siege.serves()
    siege.ends()


class Decode:
    """Reads scripts."""

    def __call__(self, script: Script) -> None:
        """The next one."""
        try:
            decode(script)
        except Exception:
            keep(script)
            raise


class Dispatch:
    """Plays scripts on clusters, one after the other."""

    def __init__(self) -> None:
        self.siege, self.said, self.played = Siege(), Script(), 0

    def __call__(self, script: Script) -> None:
        """The next one."""
        self.said += script
        try:
            self.siege.play(script)
            self.played += 1
            if self.played >= PLAYED:
                self.siege.serves()
                self.siege.ends()
                self.siege, self.said, self.played = Siege(), Script(), 0
        except Exception:
            keep(self.said)
            raise


def breaks(script: Script, play: Callable[[Script], None]) -> bool:
    """Whether it still does."""
    try:
        play(script)
    except Exception:
        return True
    return False


def smallest(script: Script, play: Callable[[Script], None]) -> Script:
    """Without the messages that a crash does not need; as it is, if it does not break alone."""
    end, size = time.monotonic() + SMALLEST_S, max(1, len(script) // 2)
    if not breaks(script, play):
        return script
    while size:
        at = 0
        while at < len(script) and time.monotonic() < end:
            fewer = script[:at] + script[at + size :]
            if breaks(fewer, play):
                script = fewer
            else:
                at += size
        size //= 2
    return script


def keep(script: Script) -> Path:
    """A crash, where tests/fuzz/test_corpus.py plays it from now on."""
    CRASHES.mkdir(exist_ok=True)
    data = scripts.pack(script)
    path = CRASHES / f"{random.Random(data).getrandbits(48):012x}"
    path.write_bytes(data)
    return path


# --- seeds, and what becomes of them -----------------------------------------------------------


CHANGES = (
    wire.SetAttributes, wire.Make, wire.Create, wire.Unlink, wire.RemoveDirectory, wire.Rename,
    wire.Link, wire.SetXattr, wire.RemoveXattr, wire.Grant, wire.Commit, wire.Truncate, wire.Punch,
    wire.Lock, wire.Unlock, wire.SetPolicy,
)  # fmt: skip


def message(target: int, request: wire.Request[Any]) -> tuple[int, list[bytes]]:
    """As the stranger of the siege would ask it."""
    changes = isinstance(request, CHANGES)
    slot, incarnation = (0 if changes else wire.NO_SLOT), HERE.meta.incarnation
    head = wire.RequestHead(HERE.session, slot, 1, 2000, incarnation)
    return target, frames_of(wire.encode_request(head, request))


def _answer(reply: wire.Reply) -> tuple[int, list[bytes]]:
    head = wire.ReplyHead(HERE.session, wire.NO_SLOT, 1, 1, HERE.meta.incarnation, Round(9))
    return 0, frames_of(wire.encode_reply(head, reply))


def seeds() -> dict[str, bytes]:
    """A small script for each message that there is, by its name."""
    found: dict[str, bytes] = {}
    for kind, asked in GOOD.items():
        packed = [scripts.pack([message(target, request)]) for target, request in asked]
        found[kind.__name__] = min(packed, key=len)
    for told, replies in recorded()[2].items():
        packed = [scripts.pack([_answer(reply)]) for reply in replies]
        found[told.__name__] = min(packed, key=len)
    return {name: data for name, data in found.items() if len(data) <= SMALL_BYTES}


def make_corpus() -> int:
    """Write the seeds anew; how many."""
    CORPUS.mkdir(exist_ok=True)
    for old in CORPUS.iterdir():
        old.unlink()
    made = seeds()
    for name, data in made.items():
        (CORPUS / name).write_bytes(data)
    return len(made)


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Another script: a message of it is spoilt, said again, left out, or one comes in."""
    script = scripts.unpack(data)
    place = dice.randrange(len(script) + 1)
    how = dice.choice(["spoil", "spoil", "spoil", "again", "out", "in"])
    if how == "in" or not script or (place == len(script) and how != "spoil"):
        kind = dice.choice(list(GOOD))
        script.insert(place, message(*dice.choice(GOOD[kind])))
    elif how == "spoil":
        place = dice.randrange(len(script))
        script[place] = script[place][0], spoil.frames(dice, script[place][1])
    elif how == "again":
        script.insert(dice.randrange(len(script) + 1), script[place])
    elif len(script) > 1:
        del script[place]
    return scripts.pack(script)


PLAYS: dict[str, Callable[[], Callable[[Script], None]]] = {"decode": Decode, "dispatch": Dispatch}
ALONE: dict[str, Callable[[Script], None]] = {"decode": decode, "dispatch": dispatch}


def files(folder: Path) -> Sequence[Path]:
    """What stands in a folder, if it is there."""
    return sorted(folder.iterdir()) if folder.is_dir() else []
