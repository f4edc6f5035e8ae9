"""Finalizers run in the middle of whatever is going on, in every thread.

The argument tells what they do. The last line of the output is ``done``.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

from tests.programs import arguments, new_client
from tests.support import wait_until

ROUNDS = 1500


class Finalized:
    """Calls a function when the garbage collector finds it."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._cycle = self

    def __del__(self) -> None:
        self._function()


def main(what: str) -> None:
    client = new_client()
    client.start()
    handler = client.handler
    requests, results, ran = list[Any](), list[Any](), list[int]()

    def request() -> None:
        requests.append(client.exists_async("/"))

    def complete() -> None:
        result = handler.async_result()
        results.append(result)
        result.set(1)

    def call_back() -> None:
        result = handler.async_result()
        result.rawlink(lambda result: ran.append(1))
        results.append(result)
        result.set(1)

    def call() -> None:
        if threading.current_thread() in threads:
            client.exists("/")  # blocks, as it may there
        request()

    finalize = {
        "request": request,
        "call": call,
        "complete": complete,
        "call back": call_back,
    }[what]

    def ask() -> None:
        for _ in range(ROUNDS // 3):
            Finalized(finalize)
            client.exists_async("/").rawlink(lambda result: ran.append(1))
            client.exists("/")

    gc.collect()
    gc.set_threshold(1)  # a collection at nearly every object that is made
    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.set_threshold(700)
    gc.collect()
    wait_until(lambda: len(requests) + len(results) == ROUNDS, what="finalizers")
    wait_until(lambda: all(one.ready() for one in requests + results), what="results")
    expected = 2 * ROUNDS if what == "call back" else ROUNDS
    wait_until(lambda: len(ran) == expected, what="callbacks")
    client.stop()
    client.close()


if __name__ == "__main__":
    main(arguments()[0])
    print("done")
