"""A program that changes one directory as hard as it can and keeps a journal elsewhere.

    python churn.py DIRECTORY JOURNAL SEED STOP

Each change is written to the journal before it is begun and again when the file system has
acknowledged it, with the seconds that it took.  It ends when the file STOP exists, or at the first
error, which it writes down.  `expected` (for the test) reads a journal: what must be there now.
"""

import hashlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

NAMES = 24
DIRECTORIES = 4
MOST_BYTES = 150_000
CEILING = 60 * MOST_BYTES  # of all files together


def digest(data: bytes) -> str:
    """What a journal remembers of content."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class Churn:
    """The writer."""

    def __init__(self, folder: Path, journal: Path, seed: str):
        self.folder, self.dice = folder, random.Random(seed)
        self.journal = journal.open("a", buffering=1)
        self.files: dict[str, bytearray] = {}
        self.folders: set[str] = set()
        self.began = 0.0

    def say(self, *words: Any) -> None:
        now = time.monotonic()
        if words == ("ok",):
            words = ("ok", round(now - self.began, 4))
        self.began = now
        self.journal.write(json.dumps(words) + "\n")

    def data(self) -> bytes:
        return self.dice.randbytes(self.dice.choice([0, 1, 100, 4096, 65_536, 70_000, MOST_BYTES]))

    def name(self, taken: bool) -> str | None:
        places = ["", *(f"{one}/" for one in sorted(self.folders))]
        if taken:
            return self.dice.choice(sorted(self.files)) if self.files else None
        name = f"{self.dice.choice(places)}f{self.dice.randrange(10**9)}"
        return name if name not in self.files and len(self.files) < NAMES else None

    def step(self) -> None:
        """One change."""
        kinds = [self.create, self.create, self.overwrite, self.append, self.rename, self.unlink]
        self.dice.choice([*kinds, self.mkdir, self.rmdir, self.link, self.replace])()

    def _write(self, name: str, flags: int, data: bytes, offset: int = 0) -> None:
        descriptor = os.open(self.folder / name, os.O_WRONLY | flags, 0o644)
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(descriptor, data[done:], offset + done)
            if self.dice.random() < 0.5:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def create(self) -> None:
        name = self.name(False)
        if name is not None:
            data = self.data()
            self.say("put", name, digest(data))
            self._write(name, os.O_CREAT | os.O_EXCL, data)
            self.files[name] = bytearray(data)
            self.say("ok")

    def overwrite(self) -> None:
        name = self.name(True)
        if name is not None:
            old = self.files[name]
            offset, data = self.dice.randrange(len(old) + 1), self.data()
            new = bytearray(old)
            new[offset : offset + len(data)] = data
            self.say("put", name, digest(new))
            self._write(name, 0, data, offset)
            self.files[name] = new
            self.say("ok")

    def append(self) -> None:
        name = self.name(True)
        if name is not None:
            data = self.dice.randbytes(self.dice.randrange(5000))
            new = self.files[name] + data
            self.say("put", name, digest(new))
            self._write(name, os.O_APPEND, data)
            self.files[name] = new
            self.say("ok")

    def replace(self) -> None:
        """Write beside, rename over: what editors do."""
        name = self.name(True)
        if name is not None:
            data = self.data()
            self.say("put", name + "~", digest(data))
            self._write(name + "~", os.O_CREAT | os.O_EXCL, data)
            self.say("ok")
            self._rename(name + "~", name, bytearray(data))

    def rename(self) -> None:
        name, new = self.name(True), self.name(False)
        if name is not None and new is not None:
            self._rename(name, new, self.files.pop(name))

    def _rename(self, name: str, new: str, data: bytearray) -> None:
        self.say("rename", name, new)
        os.rename(self.folder / name, self.folder / new)
        self.files[new] = data
        self.say("ok")

    def link(self) -> None:
        """A second name, which takes the first's place."""
        name, new = self.name(True), self.name(False)
        if name is not None and new is not None:
            self.say("link", name, new)
            os.link(self.folder / name, self.folder / new)
            self.say("ok")
            self.files[new] = bytearray(self.files[name])
            self.say("unlink", name)
            os.unlink(self.folder / name)
            self.say("ok")
            del self.files[name]

    def unlink(self) -> None:
        name = self.name(True)
        if name is not None and len(self.files) > NAMES // 2:
            self.say("unlink", name)
            os.unlink(self.folder / name)
            del self.files[name]
            self.say("ok")

    def mkdir(self) -> None:
        name = f"d{self.dice.randrange(10**9)}"
        if len(self.folders) < DIRECTORIES:
            self.say("mkdir", name)
            os.mkdir(self.folder / name)
            self.folders.add(name)
            self.say("ok")

    def rmdir(self) -> None:
        empty = [d for d in sorted(self.folders) if not any(f.startswith(d) for f in self.files)]
        if empty:
            self.say("rmdir", empty[0])
            os.rmdir(self.folder / empty[0])
            self.folders.discard(empty[0])
            self.say("ok")


class Expected(NamedTuple):
    """What a journal says: names with the digest of their content (or "directory"), names whose
    change was not acknowledged, how many were, what went wrong, and how long each one took."""

    names: dict[str, str]
    open: set[str]
    acknowledged: int
    error: str
    seconds: list[float]


def expected(journal: Path) -> Expected:
    """Read a journal; its last line may be torn."""
    names: dict[str, str] = {}
    pending: list[str] = []
    count, error = 0, ""
    seconds: list[float] = []
    for line in journal.read_text().splitlines() if journal.exists() else []:
        try:
            words = json.loads(line)
        except ValueError:
            break
        if words[0] == "error":
            error = words[1]
        elif words[0] == "ok":
            _apply(names, pending)
            pending, count = [], count + 1
            seconds += words[1:]
        else:
            pending = words
    return Expected(names, set(pending[1:3]), count, error, seconds)


def _apply(names: dict[str, str], words: list[str]) -> None:
    kind, name, *more = words
    if kind == "put":
        names[name] = more[0]
    elif kind == "rename":
        names[more[0]] = names.pop(name)
    elif kind == "link":
        names[more[0]] = names[name]
    elif kind == "mkdir":
        names[name] = "directory"
    else:
        del names[name]


def check(folder: Path) -> dict[str, str]:
    """What is there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = "directory" if path.is_dir() else digest(path.read_bytes())
    return found


def main() -> int:
    """Until told to stop; `check DIRECTORY` prints what is there."""
    if sys.argv[1] == "check":
        print(json.dumps(check(Path(sys.argv[2]))))
        return 0
    folder, journal, seed, stop = sys.argv[1:5]
    churn = Churn(Path(folder), Path(journal), seed)
    try:
        while not os.path.exists(stop):
            churn.step()
    except OSError as error:
        churn.say("error", str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
