"""What a Docker plugin decides without a cluster."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdfs.tools import dockervolumes
from zdfs.tools.dockervolumes import Refused

USERS = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["1", "2", "3"]), st.booleans())


@given(st.lists(USERS))
def test_a_volume_is_in_use_while_somebody_uses_it(steps: list[tuple[str, str, bool]]) -> None:
    uses: dockervolumes.Uses = {}
    wanted: set[tuple[str, str]] = set()
    for name, user, takes in steps:
        if takes:
            uses = dockervolumes.taken(uses, name, user)
            wanted.add((name, user))
        else:
            uses = dockervolumes.given_back(uses, name, user)
            wanted.discard((name, user))
        assert {(name, user) for name, users in uses.items() for user in users} == wanted
        assert all(uses.values()), "whom nobody uses is not listed"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", ".hidden", "a\0", "ä", "x" * 256, 5])
def test_names_that_are_none(name: object) -> None:
    with pytest.raises(Refused, match="no volume's name"):
        dockervolumes.checked(name)


def test_options() -> None:
    assert dockervolumes.attributes({}) == (0o755, -1, -1)
    assert dockervolumes.attributes({"mode": "1770", "uid": "5", "gid": 6}) == (0o1770, 5, 6)
    for wrong in ({"size": "1G"}, {"mode": "9"}, {"uid": "root"}, {"uid": -2}, {"mode": "17777"}):
        with pytest.raises(Refused):
            dockervolumes.attributes(wrong)


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": [1]}', "nonsense"])
def test_what_is_no_memory(text: str) -> None:
    with pytest.raises(ValueError):
        dockervolumes.remembered(text)
