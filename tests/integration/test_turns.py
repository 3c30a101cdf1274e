"""Models on the CPU compute in turn."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from agents.engines.transformers import Turns


def waiting(turns: Turns, number: int) -> None:
    """Return when so many have asked."""
    while turns._asked < number:
        time.sleep(0.001)


def test_turns_are_given_one_at_a_time_in_the_order_of_asking_and_given_back_by_a_crash() -> None:
    turns, order, inside = Turns(), list[int](), list[int]()

    def work(number: int) -> None:
        with suppress(ZeroDivisionError), turns:
            inside.append(number)
            order.append(number)
            time.sleep(0.005)
            assert inside == [number]
            inside.clear()
            _ = 1 / (number % 2)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    with turns:
        for number, thread in enumerate(threads):
            thread.start()
            waiting(turns, number + 2)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == list(range(8))
