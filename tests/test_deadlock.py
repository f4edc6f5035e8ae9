"""A callback that waits for what only a later one of its queue can bring."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.concurrency import LIMIT, Gate
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

#: When a handler warns, in seconds, if it does.
SOON = 6.0


@pytest.mark.stock_fails("nothing is logged")
@pytest.mark.parametrize("kind", ["completion", "watch"])
def test_callback_that_waits_for_a_later_one_is_named(
    client: Any, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    delivered, done, order = threading.Event(), threading.Event(), list[str]()
    inside = Gate()

    def waits_for_the_next(argument: object) -> None:
        assert delivered.wait(LIMIT)
        order.append("waits")

    def delivers(argument: object) -> None:
        delivered.set()
        order.append("delivers")
        done.set()

    def call_back(callback: Callable[[Any], object]) -> None:
        if kind == "completion":
            client.exists_async("/").rawlink(callback)
            return
        path = client.create("/node-", sequence=True)
        client.exists(path, watch=callback)
        client.delete(path)

    def warnings() -> list[str]:
        return [text for text in caplog.messages if "waits_for_the_next" in text]

    queues = client.handler.completion_queue, client.handler.callback_queue
    queue = queues[kind == "watch"]
    try:
        with inside:  # so that both are in the queue before the first one runs
            call_back(inside)
            inside.wait_entered()
            call_back(waits_for_the_next)
            call_back(delivers)
            wait_until(lambda: queue.qsize() == 2)
        wait_until(warnings, SOON, "a warning while it hangs")
        assert order == []
        client.get_children("/")  # the client works, but for this queue
        (warning,) = warnings()
        assert order == []
    finally:
        delivered.set()  # as nobody else can
    first, _, stack = warning.partition("\n")
    assert f"{__name__}." in first
    assert ("(watch of /node-" in first) is (kind == "watch")
    assert re.search(rf"already in kazoo-seqthreading-\d+-{kind}\b", first)
    assert re.search(r"\b1 more waits? behind it", first)
    assert "in waits_for_the_next" in stack
    assert done.wait(LIMIT)
    assert order == ["waits", "delivers"]
