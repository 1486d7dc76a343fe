"""Texts without anything that is a user's: pure.

Not what is private is looked for, but what is known not to be: **a word stays if it stands in
zdfs's own source**, or is a number; every other word becomes a short hash.  Paths go whole, part by
part, whatever words they are made of, and so does what is quoted, and what is long and has no
blanks (a key).  Addresses of other machines go, loopback stays.  The same word gets the same hash,
so that lines can be compared; the salt is of one bundle and is not in it, so that nobody can try
names.
"""

import hashlib
import re
from collections.abc import Collection
from typing import Any

LONG = 32  # a CURVE key has 40 characters
SHOWN = 6  # hexadecimal digits of a hash
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+([eE]\d+)?(s|ms|us|ns|x|B|K|M|G|T|Z|KiB|MiB|GiB|TiB|MB|st|nd|rd|th)?")
_VOCABULARY = re.compile(r"[A-Za-z]+")
_PIECES = re.compile(
    r"""(?P<quoted>(?<!\w)b?(?P<mark>['"`]).*?(?<!\\)(?P=mark)(?!\w))"""
    rf"""|(?P<long>(?<!\S)[^\s'"`/][^\s'"`]{{{LONG - 1},}})"""
    r"""|(?P<path>[^\s'"`=(\[{<,;|]*/[^\s'"`)\]}>,;|]*)"""
    r"""|(?P<address>(?<![\w.])\d+\.\d+\.\d+\.\d+(?![\w.]))"""
)


def vocabulary(source: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(word.lower() for word in _VOCABULARY.findall(source))


class Redactor:
    """Takes out what is not ours."""

    def __init__(self, words: Collection[str], salt: bytes, modules: Collection[str] = ()):
        """`modules`: files of zdfs as tracebacks end with them, `zdfs/meta.py`: these stay."""
        self._words, self._salt, self._modules = frozenset(words), salt, frozenset(modules)
        self._hashes: dict[str, str] = {}

    def hash(self, text: str) -> str:
        """What stands for a text, in this bundle."""
        if text not in self._hashes:
            data = self._salt + text.encode(errors="surrogateescape")
            self._hashes[text] = "~" + hashlib.sha256(data).hexdigest()[:SHOWN]
        return self._hashes[text]

    def text(self, text: str) -> str:
        """A line, or several."""
        shown, at = [], 0
        for match in _PIECES.finditer(text):
            shown += [self._plain(text[at : match.start()]), self._piece(match)]
            at = match.end()
        return "".join([*shown, self._plain(text[at:])])

    def value(self, value: Any) -> Any:
        """What JSON has, all texts in it, keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(one) for one in value]
        return value

    def _piece(self, match: re.Match[str]) -> str:
        found = match[0]
        if match["quoted"]:
            mark = match["mark"]
            inner = found[found.index(mark) + 1 : -1]
            return f"{mark}{self._inner(inner)}{mark}"
        if match["path"]:
            return self._path(found)
        if match["long"]:
            return self.hash(found)
        return found if found.startswith("127.") else self.hash(found)

    def _inner(self, text: str) -> str:
        """What stood in quotes: a module of ours in a traceback, or else nobody knows what."""
        module = self._module(text)
        return module or (self.hash(text) if text else "")

    def _module(self, path: str) -> str:
        return next((one for one in self._modules if path.endswith("/" + one)), "")

    def _path(self, text: str) -> str:
        module = self._module(text.rstrip(":"))
        if module:
            return module
        bare = text.rstrip(":.")  # the line's own, mostly
        front, _, rest = bare.partition("/")
        if front and not front.endswith(":") and self._plain(text) == text:
            return text  # MiB/s, 3/4
        parts = [self.hash(part) if part else "" for part in rest.split("/")]
        return "/".join([self._plain(front), *parts]) + text[len(bare) :]

    def _plain(self, text: str) -> str:
        return _WORD.sub(self._word, text)

    def _word(self, match: re.Match[str]) -> str:
        word = match[0]
        if _NUMBER.fullmatch(word) and len(word) < LONG:
            return word
        parts = [part for part in word.lower().split("_") if part]
        known = all(part in self._words or part.isdecimal() for part in parts)
        return word if known and len(word) < LONG else self.hash(word)
