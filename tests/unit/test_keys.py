"""Key directories: their lines, who is let in, which keys a server may have, who may read them."""

from dataclasses import replace
from pathlib import Path

import pytest
import zmq
import zmq.utils.z85
from hypothesis import given
from hypothesis import strategies as st

from zdfs import dialing, errors, keys
from zdfs.calls import Peer
from zdfs.dialing import Found
from zdfs.errors import StartError
from zdfs.keys import Key, Keys, Role

THEN = "2026-11-29T12:00:00Z"
LATER = "2026-11-30T12:00:00Z"
A, B, C = ("a" * 40, "b" * 40, "c" * 40)
NODE = Key("node", Role.NODE, A, THEN)
LAPTOP = Key("laptop", Role.CLIENT, B, THEN)
ADDRESS = "127.0.0.1:2222"

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", fullmatch=True)
publics = st.binary(min_size=32, max_size=32).map(lambda b: zmq.utils.z85.encode(b).decode())
rights = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60).map(str.strip)
some_keys = st.builds(
    Key,
    names,
    st.sampled_from(Role),
    publics,
    st.just(THEN),
    st.lists(st.just(ADDRESS) | st.just("ten.example:3333"), max_size=2).map(tuple),
    st.sampled_from(["", LATER]),
    rights,
    st.just("") | publics,
)


# --- text --------------------------------------------------------------------------------------


@given(some_keys)
def test_a_line_comes_back(key: Key) -> None:
    assert keys.parse_line(keys.line(key)) == key


@given(st.lists(some_keys, max_size=4, unique_by=lambda key: key.public))
def test_a_file_comes_back(some: list[Key]) -> None:
    assert keys.parse(keys.text_of(some), "it") == tuple(some)


@pytest.mark.parametrize(
    "row, why",
    [
        ("laptop client", "name, role, key and time are expected"),
        (f"-laptop client {A} {THEN}", "no name"),
        (f"../x client {A} {THEN}", "no name"),
        (f"laptop king {A} {THEN}", "no role"),
        (f"laptop client {A[:-1]} {THEN}", "no key"),
        (f"laptop client {'#' * 40} {THEN}", "no key"),
        (f"laptop client {A} yesterday", "no time"),
        (f"laptop client {A} {THEN} revoked=", "'revoked'"),
        (f"laptop client {A} {THEN} revoke={LATER}", "'revoke'"),
        (f"laptop client {A} {THEN} at=:1", "no host"),
        (f"laptop client {A} {THEN} rights=", "rights are empty"),
        (f"laptop client {A} {THEN} secret={B}x", "'secret'"),
    ],
)
def test_a_line_that_is_wrong_is_named_and_no_secret_is_told(row: str, why: str) -> None:
    with pytest.raises(StartError, match=why) as caught:
        keys.parse(keys.HEADER + "# a comment\n\n" + row + "\n", "FILE")
    assert "FILE, line 4" in str(caught.value) and B not in str(caught.value)


def test_what_is_no_file_of_keys_and_a_key_in_two_lines() -> None:
    with pytest.raises(StartError, match="no file of keys"):
        keys.parse("hello", "FILE")
    with pytest.raises(StartError, match="two lines"):
        keys.parse(keys.text_of([NODE, replace(LAPTOP, public=A)]), "FILE")


@given(publics)
def test_keys_are_known(public: str) -> None:
    assert keys.is_key(public)
    assert not keys.is_key(public[:-1]) and not keys.is_key(public[:-1] + " ")
    assert not keys.is_key("%nSc1" * 8), "2**32 in five characters: ZeroMQ refuses it"


# --- who counts --------------------------------------------------------------------------------


def test_who_is_let_in() -> None:
    gone = replace(LAPTOP, name="gone", public=C, revoked=LATER)
    assert Keys(NODE, (NODE, LAPTOP, gone)).allowed() == {A: NODE, B: LAPTOP}


def test_which_keys_a_server_may_have() -> None:
    def pins(*cluster: Key) -> tuple[str, ...]:
        return Keys(LAPTOP, cluster).pins(ADDRESS)

    there = replace(NODE, public=B, at=(ADDRESS,))
    elsewhere = replace(NODE, public=C, at=("127.0.0.1:3333",))
    assert pins(NODE, LAPTOP) == (A,), "a client's key is no server's"
    assert pins(NODE, replace(NODE, public=B)) == (B, A), "the newest first"
    assert pins(NODE, there) == (B,), "who has a key of its own is believed no other"
    assert pins(NODE, elsewhere) == (A,)
    assert pins(elsewhere) == () and pins(replace(NODE, revoked=LATER)) == ()
    assert pins(NODE, replace(there, revoked=LATER)) == (A,)


def test_a_key_beside_another_then_the_old_one_revoked() -> None:
    second = replace(LAPTOP, public=C, created=LATER)
    with pytest.raises(StartError, match="--another"):
        keys.added((NODE, LAPTOP), second, False)
    with pytest.raises(StartError, match="leave --another out"):
        keys.added((NODE,), second, True)
    both = keys.added((NODE, LAPTOP), second, True)
    assert set(Keys(NODE, both).allowed()) == {A, B, C}
    after = keys.revoked(both, "laptop", True, LATER)
    assert after == (NODE, replace(LAPTOP, revoked=LATER), second)
    with pytest.raises(StartError, match="no key but its newest"):
        keys.revoked(after, "laptop", True, LATER)
    none = keys.revoked(after, "laptop", False, LATER)
    assert set(Keys(NODE, none).allowed()) == {A}
    with pytest.raises(StartError, match="laptop has no key that counts"):
        keys.revoked(none, "laptop", False, LATER)
    confined = replace(LAPTOP, rights="ro")
    *_, beside = keys.added((NODE, confined), second, True)
    assert beside == replace(second, rights="ro"), "nobody gets more rights by a new key"
    assert keys.added(none, replace(LAPTOP, public="d" * 40), False), "a name may come back"


# --- what ZeroMQ asks --------------------------------------------------------------------------


def asked(domain: bytes = b"zdfs", mechanism: bytes = b"CURVE") -> list[bytes]:
    return [b"1.0", b"7", domain, b"10.0.0.9", b"", mechanism, bytes(32)]


def test_the_answer_to_a_handshake() -> None:
    cluster = (NODE, replace(LAPTOP, revoked=LATER))
    allowed = Keys(NODE, cluster).allowed()
    yes = keys.zap(asked(), A, allowed, cluster)
    assert yes is not None and not yes.refused
    assert yes.frames == (b"1.0", b"7", b"200", b"OK", A.encode(), b"")
    for question, public, who in [
        (asked(), C, "cccccccc... from 10.0.0.9"),
        (asked(), B, f"laptop (bbbbbbbb...), revoked {LATER} from 10.0.0.9"),
        (asked(domain=b""), A, "node"),
        (asked(mechanism=b"NULL"), A, "node"),
    ]:
        no = keys.zap(question, public, allowed, cluster)
        assert no is not None and who in no.refused and public not in no.refused
        assert no.frames[:3] == (b"1.0", b"7", b"400") and no.frames[4:] == (b"", b"")
    assert keys.zap(asked()[:-1], A, allowed, cluster) is None
    assert keys.zap([b"2.0", *asked()[1:]], A, allowed, cluster) is None


# --- what a handshake means --------------------------------------------------------------------


@pytest.mark.parametrize(
    "event, found",
    [
        (zmq.Event.HANDSHAKE_SUCCEEDED, Found.OURS),
        (zmq.Event.HANDSHAKE_FAILED_AUTH, Found.REFUSED),
        (zmq.Event.HANDSHAKE_FAILED_NO_DETAIL, Found.OTHER),
        (zmq.Event.HANDSHAKE_FAILED_PROTOCOL, Found.OTHER),
        (zmq.Event.CLOSED, Found.ABSENT),
    ],
)
def test_what_a_handshake_means(event: int, found: Found) -> None:
    assert dialing.judged(event) is found


def test_what_a_greeting_says() -> None:
    said = dialing.GREETING + b"CURVE".ljust(20, b"\0") + bytes(32)
    assert dialing.mechanism(said) == dialing.mechanism(said[:32]) == "CURVE"
    assert dialing.mechanism(dialing.GREETING + b"NULL".ljust(20, b"\0")) == "NULL"
    for other in (b"", said[:31], b"HTTP/1.1 400 Bad Request".ljust(64), b"\x00" + said[1:]):
        assert dialing.mechanism(other) == ""


def test_only_a_server_of_ours_may_refuse_for_good() -> None:
    """Whoever answers at an address could make programs fail, else."""
    told = {found: dialing.failure(found, Peer(ADDRESS), LAPTOP) for found in Found}
    assert told[Found.OURS] is told[Found.ABSENT] is None
    assert isinstance(told[Found.REFUSED], errors.Refused) and told[Found.REFUSED].definite
    for found in (Found.OTHER, Found.KEYED, Found.PLAIN):
        assert isinstance(told[found], errors.Mistrusted) and not told[found].definite
    assert all("2222" in one.text and B not in one.text for one in told.values() if one)


def test_a_refusal_crosses_the_wire_and_older_peers_know_its_errno() -> None:
    refused = errors.Refused("no")
    again = errors.revive(refused.code, refused.number, refused.text, ())
    assert isinstance(again, errors.Refused) and again.number == 13


# --- files -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A key directory."""
    keys.write(tmp_path / "own", [replace(NODE, secret=C)], 0o600)
    keys.write(tmp_path / "cluster", [NODE, LAPTOP], 0o644)
    return tmp_path


def test_a_directory_comes_back(folder: Path) -> None:
    assert keys.load(folder) == Keys(replace(NODE, secret=C), (NODE, LAPTOP))
    assert (folder / "own").stat().st_mode & 0o777 == 0o600
    assert sorted(one.name for one in folder.iterdir()) == ["cluster", "own"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_secret_that_others_may_read_is_refused(folder: Path, mode: int) -> None:
    (folder / "own").chmod(mode)
    with pytest.raises(StartError, match=f"own .mode {mode:o}"):
        keys.load(folder)


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_list_that_others_may_change_is_refused(folder: Path, mode: int) -> None:
    (folder / "cluster").chmod(mode)
    with pytest.raises(StartError, match="others may write"):
        keys.load(folder)


def test_what_is_missing_or_in_the_wrong_place(folder: Path) -> None:
    with pytest.raises(StartError, match="is not there"):
        keys.load(folder / "elsewhere")
    (folder / "own").write_bytes(b"\xff")
    with pytest.raises(StartError, match="no file of keys"):
        keys.load(folder)
    (folder / "own").write_text(keys.text_of([NODE]))
    with pytest.raises(StartError, match="one line with one key and its secret"):
        keys.load(folder)
    (folder / "own").unlink()
    (folder / "own").mkdir()
    with pytest.raises(StartError, match="own"):
        keys.load(folder)


def test_a_change_is_seen(folder: Path) -> None:
    before = keys.stamp(folder)
    assert keys.stamp(folder) == before
    keys.write(folder / "cluster", [NODE, LAPTOP], 0o644)
    changed = keys.stamp(folder)
    assert changed != before
    (folder / "own").chmod(0o644)
    assert keys.stamp(folder) != changed
    (folder / "own").unlink()
    assert keys.stamp(folder) != changed


def test_a_store_remembers_keys(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "stores" / "meta"
    keys.refuse_plain(store, None)
    assert not store.exists(), "nothing is made in vain"
    keys.remember(store)
    keys.remember(store)
    keys.refuse_plain(store, folder)
    with pytest.raises(StartError, match="--keys DIR"):
        keys.refuse_plain(store, None)
