"""Names of files with several, as the kernel knows them."""

from zdfs.cache import Aliases, moved
from zdfs.ids import Epoch, Ino, Slot
from zdfs.wire import Attributes


def seen(ino: int, nlink: int, mode: int = 0o100644) -> Attributes:
    return Attributes(Ino(ino), mode, nlink, 0, 0, 0, 0, 0, 0, 0, 0, 1, Epoch(1), Slot(0))


def test_others_are_the_fresh_names_of_the_same_file() -> None:
    aliases = Aliases(1.0)
    aliases.learnt(seen(7, 1), b"/single", 10.0)
    aliases.learnt(seen(8, 2, 0o40755), b"/directory", 10.0)
    assert not aliases
    aliases.learnt(seen(7, 2), b"/a", 10.0)
    aliases.learnt(seen(7, 2), b"/d/b", 10.5)
    aliases.learnt(seen(9, 2), b"/other", 10.5)
    assert aliases.others(Ino(7), b"/a", 10.6) == [b"/d/b"]
    aliases.renamed(b"/d", b"/e", False)
    assert sorted(aliases.others(Ino(7), None, 10.6)) == [b"/a", b"/e/b"]
    assert aliases.others(Ino(7), None, 11.2) == [b"/e/b"]  # the kernel has forgotten the other
    aliases.learnt(seen(9, 2), b"/other", 20.0)
    assert aliases.others(Ino(7), None, 20.0) == []


def test_moved() -> None:
    assert moved(b"/a/b/c", b"/a/b", b"/x", False) == b"/x/c"
    assert moved(b"/a/bc", b"/a/b", b"/x", False) == b"/a/bc"
    assert moved(b"/x", b"/a", b"/x", True) == b"/a" and moved(b"/x", b"/a", b"/x", False) == b"/x"
