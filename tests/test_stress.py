"""Sixteen threads use a client while it is restarted again and again.

This is for Pythons without a global interpreter lock, and has to hold on all.
"""

from __future__ import annotations

import threading
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from kazoo.exceptions import ConnectionClosedError, ConnectionLoss, SessionExpiredError

from tests.support import TIMEOUT, frequent_switches, together

if TYPE_CHECKING:
    from tests.support import MakeClient

THREADS = 16
RESTARTS = 10
#: Requests that each thread makes before it asks for their results.
BATCH = 10

#: What a request meets whose client is stopped.
STOPPED = (ConnectionClosedError, ConnectionLoss, SessionExpiredError)


class Load:
    """Threads that make requests, until they are told to end."""

    def __init__(self, client: Any, paths: list[str]) -> None:
        self._client = client
        self._ended = False
        self._changed = threading.Condition()
        self._answers = dict.fromkeys(paths, 0)
        self.ran = {path: Counter[int]() for path in paths}

    def call(self, path: str) -> int:
        """Make requests; return how many."""
        client, count, ran = self._client, 0, self.ran[path]

        def note(number: int, result: Any) -> None:
            ran[number] += 1

        while not self._ended:
            results = []
            for _ in range(BATCH):
                for make in (client.get_async, partial(client.set_async, value=b"x")):
                    result = make(path)
                    result.rawlink(partial(note, count))
                    results.append(result)
                    count += 1
            answers = sum(map(self._is_answered, results))
            with self._changed:
                self._answers[path] += answers
                self._changed.notify_all()
        return count

    @staticmethod
    def _is_answered(result: Any) -> bool:
        try:
            result.get(timeout=TIMEOUT)
        except STOPPED:
            return False
        return True

    def restart(self) -> None:
        """Restart the client, each time after every thread has got answers."""
        try:
            self._wait_for_answers()
            for _ in range(RESTARTS):
                self._client.restart()
                self._wait_for_answers()
        finally:
            self._ended = True

    def _wait_for_answers(self) -> None:
        with self._changed:
            before = dict(self._answers)
            assert self._changed.wait_for(
                lambda: all(self._answers[path] > before[path] for path in before),
                TIMEOUT,
            ), f"{before}, then {self._answers}"


def test_restarts_under_load(make_client: MakeClient) -> None:
    client = make_client()
    client.start(TIMEOUT)
    paths = [client.create("/node-", b"", sequence=True) for _ in range(THREADS)]
    load = Load(client, paths)
    with frequent_switches():
        _, *counts = together(
            load.restart,
            *(partial(load.call, path) for path in paths),
            limit=4 * TIMEOUT,
        )
    client.stop()  # when it returns, all callbacks have run
    for path, count in zip(paths, counts):
        assert load.ran[path] == dict.fromkeys(range(count), 1)
