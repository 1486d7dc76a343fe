"""Lives under policy `quorum` are kinds of their own (`kinds.py`); that debts arise in them."""

from tests.sim.life import play

LIVES = 40  # about half of them owe nothing


def test_something_was_owed(seed: int) -> None:
    assert any(play("quorum-crashes", seed + number).owed for number in range(LIVES))
