from __future__ import annotations

import threading

import pytest

from greenagent.core.errors import GreenagentError
from greenagent.ledger.mailbox import Mailbox


def test_all_that_waits_comes_in_order_up_to_the_bound():
    box: Mailbox[int] = Mailbox(10)
    for n in range(5):
        box.put(n)
    assert (box.take(3), box.take(3)) == ([0, 1, 2], [3, 4])


def test_put_waits_while_it_is_full():
    box: Mailbox[int] = Mailbox(2)
    done = threading.Event()

    def fill() -> None:
        for n in range(3):
            box.put(n)
        done.set()

    thread = threading.Thread(target=fill)
    thread.start()
    assert not done.wait(0.1)
    assert box.full
    assert box.take(10) == [0, 1]
    assert done.wait(5)
    thread.join()
    assert box.take(10) == [2]


def test_after_closing_it_refuses_and_gives_the_rest():
    box: Mailbox[int] = Mailbox(1)
    box.put(1)
    errors: list[BaseException] = []

    def late() -> None:
        try:
            box.put(2)
        except GreenagentError as error:
            errors.append(error)

    thread = threading.Thread(target=late)
    thread.start()
    box.close()
    thread.join(5)
    assert len(errors) == 1
    with pytest.raises(GreenagentError, match="closed"):
        box.put(3)
    assert (box.take(5), box.take(5)) == ([1], [])
