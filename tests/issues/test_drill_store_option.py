"""A dataserver that was started with `--store=DIR` (one word): `zdfs drill --wipe` took the default
place for its store.  With nothing there, a traceback (FileNotFoundError) after the kill -9, and the
dataserver stayed dead; with another store there, that one was moved away."""

from pathlib import Path

from zdfs.ids import Slot
from zdfs.tools.nodes import Node, set_aside


def test_the_store_that_the_command_line_names(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    foreign = tmp_path / "zdfs-store" / "data-3333"
    foreign.mkdir(parents=True)
    words = (
        "python",
        "bin/zdfs-node",
        "data",
        "0",
        "3333",
        "4444",
        "5555",
        f"--store={tmp_path}/mine",
    )
    set_aside(Node(Slot(0), 1, words, "", "127.0.0.1:3333"), str(tmp_path))
    assert foreign.exists(), "the store of somebody else was moved"
    assert not (tmp_path / "mine").exists()
