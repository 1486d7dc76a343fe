"""Seals and checks: both engines, the published check values, and what a seal tells apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdfs import checksum
from zdfs.ids import BlockNo, Ino, Name, Token, Version

ENGINES = [checksum._fast(), checksum._crcmod()]
NAME = Name(Ino(5), BlockNo(7), Version(Token(9), 11))
DIGITS = b"123456789"


def engine_name(engine: tuple[object, ...]) -> str:
    return str(engine[-1])


@pytest.mark.parametrize("engine", ENGINES, ids=engine_name)
def test_check_values_of_the_catalogue(engine: tuple[checksum.Crc, ...]) -> None:
    """The values that the catalogue of parametrised CRC algorithms gives for "123456789"."""
    crc16, crc32c, crc64, _ = engine
    assert crc16(DIGITS, 0xFFFF) == 0x4B37  # CRC-16/MODBUS
    assert crc32c(DIGITS, 0) == 0xE3069283  # CRC-32C
    assert crc64(DIGITS, 0) == 0x995DC9BBDF1939FA  # CRC-64/XZ


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_both_engines_agree_also_in_pieces(first: bytes, second: bytes) -> None:
    for position, initial in enumerate((0xFFFF, 0, 0)):
        results = set()
        for engine in ENGINES:
            crc = engine[position]
            assert callable(crc)
            results.add(crc(first + second, initial))
            results.add(crc(second, crc(first, initial)))
        assert len(results) == 1


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(kind: type) -> None:
    assert checksum.seal(NAME, kind(DIGITS)) == checksum.seal(NAME, DIGITS)
    assert checksum.crc32c(kind(DIGITS)) == 0xE3069283


def test_engine_is_the_fast_one() -> None:
    assert checksum.engine() == "fastcrc"


def test_an_engine_that_cannot_be_imported_is_passed_over() -> None:
    def missing() -> tuple[checksum.Crc, checksum.Crc, checksum.Crc, str]:
        raise ImportError("not here")

    assert checksum.choose(missing, checksum._crcmod)[-1].startswith("crcmod")


OTHER_NAMES = {
    "inode": Name(Ino(6), NAME.block, NAME.version),
    "block": Name(NAME.ino, BlockNo(8), NAME.version),
    "token": Name(NAME.ino, NAME.block, Version(Token(10), 11)),
    "sequence": Name(NAME.ino, NAME.block, Version(Token(9), 12)),
}


@pytest.mark.parametrize("part", OTHER_NAMES)
def test_a_block_in_anothers_place_fails(part: str) -> None:
    right, wrong = checksum.seal(NAME, DIGITS), checksum.seal(OTHER_NAMES[part], DIGITS)
    assert right.crc16 != wrong.crc16 and right.crc32c != wrong.crc32c


def test_length_is_part_of_the_seal() -> None:
    assert checksum.seal(NAME, b"a\0") != checksum.seal(NAME, b"a")
    assert checksum.seal(NAME, b"") != checksum.seal(NAME, b"\0")


def test_every_single_flipped_bit_breaks_both_sums() -> None:
    data = bytes(range(64))
    right = checksum.seal(NAME, data)
    for bit in range(len(data) * 8):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        wrong = checksum.seal(NAME, bad)
        assert wrong.crc16 != right.crc16 and wrong.crc32c != right.crc32c


def test_two_bits_that_crc16_misses_are_caught_beside_it() -> None:
    """CRC-16's generator divides x^32767 + 1: two flips so far apart cancel out."""
    data = bytearray(5000)
    right = checksum.seal(NAME, data)
    for bit in (0, 32767):
        data[bit // 8] ^= 1 << bit % 8
    wrong = checksum.seal(NAME, data)
    assert wrong.crc16 == right.crc16, "the seed's sum alone would serve this"
    assert wrong.crc32c != right.crc32c


def test_zeros_are_not_their_own_seal() -> None:
    assert checksum.seal(NAME, bytes(4096)) != (0, 0)


def test_check_covers_the_key() -> None:
    assert checksum.check(b"ab", b"c") != checksum.check(b"ab", b"d")
    assert checksum.check(b"x", b"c") != checksum.check(b"y", b"c")
