"""The fuzzer's seeds are messages of today, and what ever broke does not break any more."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz import fuzzing, scripts

from zdfs import wire
from zdfs.errors import BadMessage

SEEDS = fuzzing.files(fuzzing.CORPUS)
STALE = "say: make fuzz-corpus"


@pytest.mark.parametrize("seed_file", SEEDS, ids=lambda path: path.name)
def test_a_seed_is_a_message(seed_file: Path) -> None:
    ((_, frames),) = scripts.unpack(seed_file.read_bytes())
    read = []
    for decoder in (wire.decode_request, wire.decode_reply):
        try:
            read.append(type(decoder(frames)[1]).__name__)
        except BadMessage:
            continue
    assert read == [seed_file.name], STALE


def test_there_is_a_seed_of_every_request() -> None:
    assert {kind.__name__ for kind in fuzzing.GOOD} <= {path.name for path in SEEDS}, STALE


def test_all_seeds_at_once() -> None:
    """Played as one script, as the fuzzer does."""
    script = [said for path in SEEDS for said in scripts.unpack(path.read_bytes())]
    fuzzing.decode(script)
    fuzzing.dispatch(script)


def test_what_broke_once() -> None:
    for crash in fuzzing.files(fuzzing.CRASHES):
        script = scripts.unpack(crash.read_bytes())
        fuzzing.decode(script)
        fuzzing.dispatch(script)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_script(data: bytes) -> None:
    script = scripts.unpack(data)
    assert scripts.unpack(scripts.pack(script)) == script


@given(st.integers(0, 2**32))
def test_what_the_fuzzer_makes_is_a_script(number: int) -> None:
    dice, data = random.Random(number), b""
    for _ in range(9):
        data = fuzzing.mutated(data, dice)
    fuzzing.decode(scripts.unpack(data))


def test_the_smallest_script_that_breaks() -> None:
    """Bisected: both halves of what is needed are kept, and nothing else."""

    def play(script: scripts.Script) -> None:
        said = {target for target, _ in script}
        assert not {3, 17} <= said

    script = [(number, [b"x"]) for number in range(40)]
    assert [target for target, _ in fuzzing.smallest(script, play)] == [3, 17]
