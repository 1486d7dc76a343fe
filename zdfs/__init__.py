"""zdfs: a replicated POSIX file system in Python.  `zdfs.connect` uses one without a mount."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zdfs.api import FileSystem, connect

__version__ = "0.1.0"
__all__ = ["FileSystem", "connect"]

if not __debug__:  # assertions are part of the design: never run without them
    raise RuntimeError("zdfs refuses python -O: its assertions guard your data; run it without -O")


def __getattr__(name: str) -> Any:
    """`connect` and `FileSystem`, loaded when they are first used: commands start without them."""
    if name in ("connect", "FileSystem"):
        from zdfs import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
