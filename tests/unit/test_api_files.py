"""What `open` takes, beside the built-in one."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdfs.api.files import check_text, flags_of
from zdfs.api.places import decoded, encoded


@given(st.text("rwxabt+", max_size=5) | st.text(max_size=3))
def test_modes_are_taken_as_open_takes_them(mode: str) -> None:
    """Whatever the built-in open refuses is refused, and nothing else."""
    try:
        open(os.devnull, mode, opener=lambda path, flags: os.open(os.devnull, os.O_RDWR)).close()
        theirs = True
    except (ValueError, TypeError):
        theirs = False
    except OSError:
        theirs = True  # 'x' of what is there
    try:
        flags_of(mode)
        ours = True
    except ValueError:
        ours = False
    assert ours is theirs


@pytest.mark.parametrize("mode", ["r", "w", "x", "a", "rb", "w+", "ab+", "r+", "xb+"])
def test_flags_are_those_that_open_gives_to_the_kernel(mode: str) -> None:
    seen = []

    def opener(path: str, flags: int) -> int:
        seen.append(flags & ~os.O_CLOEXEC)
        return os.open(os.devnull, os.O_RDWR)

    open("anything", mode, opener=opener).close()
    assert seen == [flags_of(mode)]


def test_binary_files_take_no_encoding() -> None:
    check_text("r", encoding="utf-8")
    with pytest.raises(ValueError, match="encoding"):
        check_text("rb", encoding="utf-8")


@given(st.binary())
def test_any_name_comes_back_as_it_went(name: bytes) -> None:
    if b"\0" in name:
        with pytest.raises(ValueError, match="null byte"):
            encoded(name)
        return
    text = decoded(encoded(name), "a text")
    assert isinstance(text, str)
    assert encoded(text) == name == decoded(name, b"bytes")
