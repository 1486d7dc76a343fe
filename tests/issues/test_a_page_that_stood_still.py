"""The thread that asks for `zdfs web` ended for good when one question could not be asked (a mount
whose source was no address, say): the page showed the same for ever."""

import threading

from tests.conftest import until
from zdfs.errors import StartError, Unreachable
from zdfs.tools.web.poller import Board, Poller


def test_it_asks_again() -> None:
    board, asked = Board(), 0
    wrong = [StartError("'files' is no address"), Unreachable("nobody"), OSError(24, "many files")]

    def ask() -> None:
        nonlocal asked
        asked += 1
        if wrong:
            raise wrong.pop()

    poller = Poller(None, "127.0.0.1:1", board)  # type: ignore[arg-type]
    thread = threading.Thread(target=poller._each, args=(0.001, ask), name="pulse")
    thread.start()
    try:
        until(lambda: asked > len(wrong) + 3, what="it goes on")
    finally:
        board.end()
        thread.join()
