"""The threads of ``spawn``: used again, capped, named, ended."""

from __future__ import annotations

import gc
import logging
import queue
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from kazoo_seqthreading import _threads
from kazoo_seqthreading._threads import Spawned, Threads
from tests.concurrency import (
    LIMIT,
    RAISED,
    Gate,
    frequent_switches,
    make_exception,
    together,
)
from tests.support import run_python, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PREFIX = "kazoo-seqthreading-test"


@pytest.fixture
def make() -> Iterator[Callable[..., Threads]]:
    made = list[Threads]()

    def make(limit: int | None = None) -> Threads:
        threads = Threads(PREFIX, limit)
        threads.start()
        made.append(threads)
        return threads

    yield make
    for threads in made:
        threads.stop()


class Recorder:
    """A task that remembers its threads, and so keeps them apart."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def __call__(self, *args: object) -> None:
        self.threads.append(threading.current_thread())


def wait_idle(threads: Threads, count: int) -> None:
    wait_until(lambda: threads._idle == count == len(threads), what=f"{count} idle")


def empty(threads: Threads) -> bool:
    return len(threads) == 0


def test_task_runs_in_a_named_daemon(make: Callable[..., Threads]) -> None:
    names = list[str]()
    spawned = make().spawn(
        lambda: names.append(threading.current_thread().name), "task"
    )
    spawned.join(LIMIT)
    assert names == [f"{PREFIX}-task"] == [spawned.name]
    assert spawned.daemon
    assert not spawned.is_alive()
    assert repr(spawned) == f"<Spawned {PREFIX}-task done>"


def test_running_task(make: Callable[..., Threads]) -> None:
    with Gate() as inside:
        spawned = make().spawn(inside, "task")
        inside.wait_entered()
        assert spawned.is_alive()
        assert repr(spawned) == f"<Spawned {PREFIX}-task running>"
        spawned.join(0.01)
        assert spawned.is_alive()
        assert spawned.ident in {thread.ident for thread in threading.enumerate()}
    spawned.join()
    assert not spawned.is_alive()


def test_task_cannot_join_itself(
    make: Callable[..., Threads], caplog: pytest.LogCaptureFixture
) -> None:
    tasks = queue.Queue[Spawned]()
    spawned = make().spawn(lambda: tasks.get(timeout=LIMIT).join(), "task")
    tasks.put(spawned)
    spawned.join(LIMIT)
    assert "cannot join the current thread" in caplog.text


@pytest.mark.parametrize("name", RAISED)
def test_nothing_a_task_raises_ends_the_thread(
    make: Callable[..., Threads], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise make_exception(name)

    threads, recorder = make(), Recorder()
    threads.spawn(fails, "fails").join(LIMIT)
    wait_idle(threads, 1)
    threads.spawn(recorder, "next").join(LIMIT)
    assert len(recorder.threads) == len(threads) == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "<locals>.fails" in caplog.text


def test_idle_threads_are_used_again(make: Callable[..., Threads]) -> None:
    threads, recorder = make(), Recorder()
    for number in range(100):
        threads.spawn(recorder, str(number)).join(LIMIT)
    assert len(recorder.threads) == 100
    assert len(set(recorder.threads)) == 1
    wait_idle(threads, 1)
    assert recorder.threads[0].name == f"{PREFIX}-idle"


def test_no_task_waits_for_another_one(make: Callable[..., Threads]) -> None:
    threads, gates = make(), [Gate() for _ in range(20)]
    threads.spawn(Recorder(), "first").join(LIMIT)
    wait_idle(threads, 1)
    for gate in gates:
        threads.spawn(gate, "gate")
    for gate in gates:  # although none has been opened
        gate.wait_entered()
    assert len(threads) == 20
    for gate in gates:
        gate.open()
    wait_idle(threads, 20)


def test_limit(make: Callable[..., Threads]) -> None:
    threads, gates, order = make(2), [Gate(), Gate()], list[int]()
    for gate in gates:
        threads.spawn(gate, "gate")
        gate.wait_entered()
    more = [
        threads.spawn(partial(order.append, number), "more") for number in range(10)
    ]
    dedicated = Gate()
    threads.spawn(dedicated, "connection", dedicated=True)
    dedicated.wait_entered()  # it does not count
    assert len(threads) == 2
    assert order == []
    gates[0].open()
    for spawned in more:
        spawned.join(LIMIT)
    assert order == list(range(10))
    assert len(threads) == 2
    gates[1].open()
    dedicated.open()
    wait_idle(threads, 2)


def test_stop_ends_idle_threads_and_lets_the_others_finish(
    make: Callable[..., Threads],
) -> None:
    threads, order = make(1), list[str]()
    with Gate() as inside:
        threads.spawn(inside, "running")
        inside.wait_entered()
        waiting = threads.spawn(partial(order.append, "waiting"), "waiting")
        threads.stop()
    waiting.join(LIMIT)
    assert order == ["waiting"]
    wait_until(lambda: len(threads) == 0)
    threads.spawn(partial(order.append, "after"), "after").join(LIMIT)
    assert order == ["waiting", "after"]
    wait_until(lambda: len(threads) == 0)


def test_idle_threads_end_when_stopped(make: Callable[..., Threads]) -> None:
    threads, gates = make(), [Gate() for _ in range(5)]
    for gate in gates:
        threads.spawn(gate, "gate")
        gate.wait_entered()
    for gate in gates:
        gate.open()
    wait_idle(threads, 5)
    threads.stop()
    wait_until(lambda: len(threads) == 0)
    threads.start()
    threads.spawn(Recorder(), "again").join(LIMIT)
    wait_idle(threads, 1)


def test_idle_threads_end_after_a_while(
    make: Callable[..., Threads], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_threads, "IDLE_SECONDS", 0.02)
    threads, recorder = make(), Recorder()
    threads.spawn(recorder, "task").join(LIMIT)
    wait_until(lambda: not recorder.threads[0].is_alive())
    assert len(threads) == 0


@pytest.mark.parametrize("limit", [None, 1, 3])
def test_tasks_racing_idle_ends_and_stop_run_once_each(
    make: Callable[..., Threads], limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_threads, "IDLE_SECONDS", 0.0001)
    with frequent_switches():
        for _ in range(10):
            threads, ran, spawned = make(limit), list[int](), list[Any]()

            def spawn(first: int, threads: Any = threads, ran: Any = ran) -> list[Any]:
                return [
                    threads.spawn(partial(ran.append, number), "task")
                    for number in range(first, first + 20)
                ]

            def restart(threads: Threads = threads) -> None:
                for _ in range(5):
                    threads.stop()
                    threads.start()

            spawned = together(partial(spawn, 0), partial(spawn, 20), restart)
            for one in (*spawned[0], *spawned[1]):
                one.join(LIMIT)
                assert not one.is_alive()
            assert sorted(ran) == list(range(40))
            threads.stop()
            wait_until(partial(empty, threads))


def test_idle_thread_keeps_no_reference(make: Callable[..., Threads]) -> None:
    class Payload:
        pass

    def task(payload: Payload) -> None:
        pass

    threads, payload = make(), Payload()
    reference = weakref.ref(payload)
    spawned = threads.spawn(partial(task, payload), "task")
    del payload

    def gone() -> bool:
        gc.collect()
        return reference() is None

    wait_until(gone)
    assert not spawned.is_alive()
    assert not threads._running


def test_thread_that_cannot_be_started(
    make: Callable[..., Threads], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more_threads(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads, recorder = make(1), Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more_threads)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threads.spawn(recorder, "task")
    assert len(threads) == 0
    assert not threads._running
    threads.spawn(recorder, "task").join(LIMIT)
    assert len(recorder.threads) == 1


AT_SHUTDOWN = """
import atexit
from kazoo_seqthreading import SequentialThreadingHandler

handler = SequentialThreadingHandler()
handler.start()

def spawn():
    # Python 3.12 and later refuse new threads here; it is nobody's mistake.
    handler.spawn(print, "spawned").join(10)
    print("done")

atexit.register(spawn)
"""


def test_spawn_while_the_interpreter_ends() -> None:
    done = run_python(AT_SHUTDOWN)
    assert done.stderr == ""
    assert done.returncode == 0
    assert "done" in done.stdout
