"""What leaves a machine in a bundle: zdfs's own words and numbers, and nothing else."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zdfs
from zdfs.redaction import Redactor, vocabulary
from zdfs.tools.bundle import our_redactor, ours, plain
from zdfs.wire import Opening

OURS = our_redactor()
KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"  # a public key, as rfc.zeromq.org/spec/32 has it


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-29 21:00:00.123Z zdfs.mount WARNING dataserver 127.0.0.1:3333 does not answer",
        "inode 1099511627778 was not flushed whole: can't be read, 12.5 MiB/s in 3s",
        "policy all: a write waits while any server is down",
        'File "zdfs/meta.py", line 12, in status',
    ],
)
def test_what_zdfs_says_stays(line: str) -> None:
    assert OURS.text(line.replace('"zdfs/', '"/usr/lib/python3/site-packages/zdfs/')) == line


@pytest.mark.parametrize(
    "secret",
    [
        "/a/salary of Bob 2024.ods", "/home/bob/thesis", "salaries/2024.ods", "b'thesis\\x00'",
        '"the plan"', "'status report'", "user.diagnosis", "10.1.2.3", "fe80::1ff:fe23",
        "Grüße", "/status", "bobs-laptop:/mnt/data", KEY, f"--key={KEY}", "deadbeef0123",
        "4a6f", "x" * 200, "/0151234567", "host17", "notours",
    ],
)  # fmt: skip
def test_what_is_a_users_goes(secret: str) -> None:
    for line in (f"{secret}: no such file", f"why {secret} waits", f"({secret})", f"a={secret}"):
        shown = OURS.text(line)
        assert secret not in shown and "~" in shown, shown


def test_the_same_word_has_the_same_hash_in_one_bundle_only() -> None:
    one, two = OURS.text("/mnt/thesis: x"), OURS.text("on host:/mnt/thesis")
    assert one.split(":")[0] in two
    assert our_redactor().text("/mnt/thesis: x") != one


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "Zs"]), max_size=80))
def test_only_words_of_ours_and_numbers_are_left(text: str) -> None:
    words = Redactor({"ours"}, b"salt").text(text).replace("~", " ~").split()
    for word in words:
        if "~" not in word:
            letters = "".join(c if c.isalpha() else " " for c in word).split()
            assert all(one == "ours" or one.isascii() and len(one) <= 3 for one in letters), word


def test_facts_of_any_kind_become_plain() -> None:
    facts = {"thesis": [Opening(5, 6), b"name"], "state": None}  # type: ignore[arg-type]
    shown = OURS.value(plain(facts))
    (key, (opening, name)), (_, nothing) = shown.items()
    assert key.startswith("~") and opening == {"ino": 5, "opening": 6} and nothing is None
    assert name.startswith("~") and "6e616d65" not in name


def test_the_vocabulary_is_that_of_the_package() -> None:
    home = Path(zdfs.__file__).parent
    assert {"metaserver", "bytes", "zdfs"} <= vocabulary((home / "__init__.py").read_text()) | {
        "metaserver", "bytes",
    }  # fmt: skip
    assert ours("zdfs-node") and ours("/x/bin/zdfs-mount") and not ours("/home/zdfsfan/emacs")
