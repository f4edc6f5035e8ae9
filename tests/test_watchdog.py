"""Slow callbacks are warned of while they run; a late heartbeat is called that."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from kazoo_seqthreading import AsyncResult, SequentialThreadingHandler
from kazoo_seqthreading._stats import Tally
from kazoo_seqthreading._watchdog import Watchdog
from kazoo_seqthreading._worker import Worker
from tests.concurrency import LIMIT, Gate
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import MakeClient

WATCHDOG = "kazoo_seqthreading.watchdog"
CONNECTION = "kazoo_seqthreading.connection"


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    changed = threading.Condition(threading.RLock())
    workers = [
        Worker(f"kazoo-seqthreading-test-{name}", print, changed, Tally())
        for name in ("completion", "watch")
    ]
    for worker in workers:
        worker.start()
    yield workers
    for worker in workers:
        worker.close(refuse=True)


def messages(caplog: pytest.LogCaptureFixture, logger: str) -> list[str]:
    return [record.message for record in caplog.records if record.name == logger]


def test_idle_workers_need_no_look(workers: list[Worker]) -> None:
    assert Watchdog(workers, 1.0).check() is None


def test_no_limit(workers: list[Worker], caplog: pytest.LogCaptureFixture) -> None:
    with Gate() as inside:
        workers[0].put(inside)
        inside.wait_entered()
        assert Watchdog(workers, None).check() is None
    assert messages(caplog, WATCHDOG) == []


def test_looks_again_when_the_callback_is_overdue(workers: list[Worker]) -> None:
    watchdog, gates = Watchdog(workers, LIMIT), [Gate(), Gate()]
    for worker, gate in zip(workers, gates):
        worker.put(gate)
        gate.wait_entered()
        time.sleep(0.01)
    patience = watchdog.check()
    assert patience is not None
    assert LIMIT - 10 < patience < LIMIT - 0.01  # of the first one
    for gate in gates:
        gate.open()


def test_looks_again_for_what_is_about_to_begin() -> None:
    changed = threading.Condition(threading.RLock())
    worker = Worker("unstarted", print, changed, Tally(), accepting=True)
    worker.put(print)
    assert Watchdog([worker], 3.0).check() == 3.0


def stands_here(gate: Gate) -> None:
    gate()


def test_warns_once_while_it_runs(
    workers: list[Worker], caplog: pytest.LogCaptureFixture
) -> None:
    completion, _ = workers
    watchdog = Watchdog(workers, 0.05)

    def slow() -> None:
        stands_here(inside)

    with Gate() as inside:
        completion.put(slow)
        inside.wait_entered()
        for _ in range(3):
            completion.put(print_nothing)
        wait_until(lambda: watchdog.check() is None)
        for _ in range(3):
            assert watchdog.check() is None
        assert not inside.passed.is_set()
    (record,) = [record for record in caplog.records if record.name == WATCHDOG]
    assert record.levelno == logging.WARNING
    first, _, stack = record.message.partition("\n")
    assert f"{__name__}.test_warns_once_while_it_runs.<locals>.slow runs for" in first
    assert " in kazoo-seqthreading-test-completion" in first
    assert "3 more wait behind it" in first
    assert "in stands_here" in stack


def print_nothing() -> None:
    pass


def test_warns_of_the_same_callback_again(
    workers: list[Worker], caplog: pytest.LogCaptureFixture
) -> None:
    watchdog = Watchdog(workers, 0.01)
    for count in (1, 2):
        inside = Gate()
        with inside:
            workers[1].put(inside)
            inside.wait_entered()
            wait_until(lambda: watchdog.check() is None)
        wait_until(lambda: workers[1].running is None)
        assert len(messages(caplog, WATCHDOG)) == count


@pytest.mark.parametrize("kind", ["completion", "watch"])
def test_slow_callback_of_a_client(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    client = make_client(handler=SequentialThreadingHandler(slow_callback_duration=0.2))
    client.start()
    client.create("/slow")
    with Gate() as inside:
        if kind == "completion":
            client.exists_async("/slow").rawlink(inside)
        else:
            client.get("/slow", watch=inside)
            client.delete("/slow")
        inside.wait_entered()
        wait_until(lambda: messages(caplog, WATCHDOG), what="a warning while it runs")
        client.exists("/")  # and nothing else is held up
        (message,) = messages(caplog, WATCHDOG)
    assert "tests.concurrency.Gate" in message
    assert ("(watch of /slow)" in message) is (kind == "watch")
    assert f"-{kind}," in message
    assert "concurrency.py" in message.partition("\n")[2]


class HoldsUp(SequentialThreadingHandler):
    """Its connection thread can be held up."""

    hold_up: threading.Event | None = None

    def async_result(self) -> AsyncResult[Any]:
        result, held_up = super().async_result(), self.hold_up
        if held_up is not None:
            self.hold_up = None

            def wait(future: object) -> None:
                threading.Event().wait(3.2)  # a heartbeat is due every 2 s
                held_up.set()

            result.as_future().add_done_callback(wait)
        return result


def test_late_heartbeat(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    handler, held_up = HoldsUp(), threading.Event()
    # It is late after 3 s, and the session expires after 6 s.
    client = make_client(timeout=6.0, handler=handler)
    client.start()
    client.exists("/")
    handler.hold_up = held_up
    client.exists_async("/")
    assert held_up.wait(LIMIT)
    wait_until(lambda: messages(caplog, CONNECTION), what="a log of the late heartbeat")
    message = messages(caplog, CONNECTION)[0]
    assert "heartbeat is due" in message
    assert "connection thread was held up" in message
    assert client.retry(client.exists, "/") is not None


def test_heartbeats_in_time_are_no_news(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client(timeout=9.0)  # due after 3 s at the most, late after 3.9
    client.start()
    requests = client.handler.stats().requests
    wait_until(lambda: client.handler.stats().requests >= requests + 2, LIMIT)
    assert messages(caplog, CONNECTION) == []
