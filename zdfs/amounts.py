"""What people read: bytes, stretches of time, names whatever they are made of."""


def size(count: float) -> str:
    """Bytes."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def lasting(seconds: float) -> str:
    """A time, in the largest unit of which it has two."""
    for unit, length in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def printable(text: str) -> str:
    """A name that any terminal takes: what is no text is shown as \\x..., a line stays one."""
    shown = text.encode(errors="backslashreplace").decode()
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


def printable_lines(text: str) -> str:
    """Lines with names in them, likewise."""
    return "\n".join(map(printable, text.split("\n")))
