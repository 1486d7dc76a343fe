"""zdfs: a replicated POSIX file system in Python."""

__version__ = "0.1.0"

if not __debug__:  # assertions are part of the design: never run without them
    raise RuntimeError("zdfs refuses python -O: its assertions guard your data; run it without -O")
