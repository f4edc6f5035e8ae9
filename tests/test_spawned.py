"""The threads of ``spawn``: fresh, named, capped, and each started once."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import queue
import sys
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from kazoo_seqthreading._spawned import SpawnedThreads
from tests.support import (
    RAISED,
    TIMEOUT,
    Gate,
    frequent_switches,
    in_thread,
    interrupt,
    make_exception,
    run_python,
    together,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "kazoo-seqthreading-test"


def make(limit: int | None = None) -> SpawnedThreads:
    return SpawnedThreads(PREFIX, limit)


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ``threading.excepthook`` is called with: type and thread."""
    seen = list[Any]()

    def hook(arguments: Any) -> None:
        seen.append((arguments.exc_type, arguments.thread))

    monkeypatch.setattr(threading, "excepthook", hook)
    return seen


@pytest.fixture(params=[None, 1], ids=["unlimited", "limited"])
def threads(request: pytest.FixtureRequest) -> SpawnedThreads:
    return make(request.param)


@pytest.fixture
def broken_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No thread can be started until it is undone."""

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        yield patch


def do_nothing() -> None:
    pass


# -- the thread ------------------------------------------------------------------------


def test_function_runs_in_a_named_daemon(threads: SpawnedThreads) -> None:
    names = list[str]()

    def task() -> None:
        names.append(threading.current_thread().name)

    spawned = threads.spawn(task)
    spawned.join(TIMEOUT)
    expected = f"{PREFIX}-spawn:{__name__}.{task.__qualname__}"

    assert names == [expected] == [spawned.name]
    assert isinstance(spawned, threading.Thread)
    assert spawned.daemon
    assert not spawned.is_alive()


def test_name_is_looked_at_in_the_thread(threads: SpawnedThreads) -> None:
    """It runs the object's own code, which may block or raise."""

    class Task:
        def __call__(self) -> None:
            lookers.append(threading.current_thread())

        def __getattr__(self, name: str) -> Any:
            lookers.append(threading.current_thread())
            raise SystemExit(name)

    lookers = list[threading.Thread]()
    spawned = threads.spawn(Task())
    spawned.join(TIMEOUT)

    assert len(lookers) > 1
    assert set(lookers) == {spawned}
    assert spawned.name.endswith(f".{Task.__qualname__}")


def test_running_function(threads: SpawnedThreads) -> None:
    with Gate() as inside:
        spawned = threads.spawn(inside)
        inside.wait_entered()
        assert spawned.is_alive()
        spawned.join(0.01)
        assert spawned.is_alive()
        assert spawned in threading.enumerate()
        assert len(threads) == 1
    spawned.join()

    assert not spawned.is_alive()
    assert len(threads) == 0


def test_each_function_gets_a_fresh_thread(threads: SpawnedThreads) -> None:
    """Without the thread-locals, context and event loop of another one."""
    local, variable = threading.local(), contextvars.ContextVar[int]("variable")
    seen, idents = list[Any](), list[threading.Thread]()

    def task() -> None:
        idents.append(threading.current_thread())
        seen.append((getattr(local, "value", None), variable.get(0)))
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        local.value = 1
        variable.set(1)

    for _ in range(10):
        threads.spawn(task).join(TIMEOUT)

    assert seen == [(None, 0)] * 10
    assert len(set(idents)) == 10


def test_function_cannot_join_itself(
    threads: SpawnedThreads, hooked: list[Any]
) -> None:
    own: queue.Queue[threading.Thread] = queue.Queue()
    spawned = threads.spawn(lambda: own.get(timeout=TIMEOUT).join())
    own.put(spawned)
    spawned.join(TIMEOUT)

    assert hooked == [(RuntimeError, spawned)]


@pytest.mark.parametrize("name", RAISED)
def test_exceptions_go_to_the_excepthook(
    threads: SpawnedThreads,
    name: str,
    hooked: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As with kazoo's own handler; the next function runs."""

    def fails() -> None:
        raise make_exception(name)

    spawned = threads.spawn(fails)
    spawned.join(TIMEOUT)
    assert hooked == [(type(make_exception(name)), spawned)]
    assert len(threads) == 0
    seen = list[str]()
    threads.spawn(partial(seen.append, "next")).join(TIMEOUT)

    assert seen == ["next"]
    assert caplog.records == []


def test_thread_keeps_no_reference(threads: SpawnedThreads) -> None:
    class Payload:
        pass

    def task(payload: Payload) -> None:
        pass

    payload = Payload()
    reference = weakref.ref(payload)
    spawned = threads.spawn(partial(task, payload))
    del payload

    def gone() -> bool:
        gc.collect()
        return reference() is None

    wait_until(gone)
    spawned.join(TIMEOUT)
    thread = weakref.ref(spawned)
    del spawned
    gc.collect()

    assert thread() is None


# -- the limit -------------------------------------------------------------------------


def test_no_function_waits_for_another_one() -> None:
    threads, gates = make(), [Gate() for _ in range(20)]
    spawned = [threads.spawn(gate) for gate in gates]
    for gate in gates:  # although none has been opened
        gate.wait_entered()
    assert len(threads) == 20
    for gate in gates:
        gate.open()
    for one in spawned:
        one.join(TIMEOUT)

    assert len(threads) == 0


def test_limit() -> None:
    threads, gates, order = make(2), [Gate(), Gate()], list[int]()
    running = [threads.spawn(gate) for gate in gates]
    for gate in gates:
        gate.wait_entered()
    more = [threads.spawn(partial(order.append, number)) for number in range(10)]
    uncounted = Gate()
    connection = threads.spawn_uncounted(uncounted, "connection")
    uncounted.wait_entered()  # it does not wait
    assert len(threads) == 2
    assert order == []
    gates[0].open()
    for one in more:
        one.join(TIMEOUT)
    assert order == list(range(10))
    gates[1].open()
    uncounted.open()
    for one in (*running, connection):
        one.join(TIMEOUT)

    assert connection.name == f"{PREFIX}-connection"
    assert len(threads) == 0


def test_thread_that_waits_for_its_turn() -> None:
    threads, seen = make(1), list[str]()
    with Gate() as inside:
        threads.spawn(inside)
        inside.wait_entered()
        waiting = threads.spawn(partial(seen.append, "ran"))
        assert waiting.is_alive()
        assert waiting not in threading.enumerate()
        waiting.join(0.01)
        assert waiting.is_alive()
        assert seen == []
    waiting.join(TIMEOUT)

    assert not waiting.is_alive()
    assert seen == ["ran"]


def test_function_spawns_within_the_limit() -> None:
    threads, last = make(1), threading.Event()

    def task(number: int) -> None:
        if number:
            threads.spawn(partial(task, number - 1))
        else:
            last.set()

    threads.spawn(partial(task, 20))
    assert last.wait(TIMEOUT)
    wait_until(lambda: len(threads) == 0)


@pytest.mark.parametrize("limit", [None, 1, 3])
def test_functions_spawned_at_once_run_once_each(limit: int | None) -> None:
    with frequent_switches():
        for _ in range(10):
            threads, ran, counts = make(limit), list[int](), list[int]()

            def task(
                number: int,
                threads: Any = threads,
                ran: Any = ran,
                counts: Any = counts,
            ) -> None:
                counts.append(len(threads))
                ran.append(number)

            def spawn(
                first: int, threads: Any = threads, task: Any = task
            ) -> list[threading.Thread]:
                numbers = range(first, first + 20)
                return [threads.spawn(partial(task, number)) for number in numbers]

            for spawned in together(partial(spawn, 0), partial(spawn, 20)):
                for one in spawned:
                    one.join(TIMEOUT)
                    assert not one.is_alive()
            assert sorted(ran) == list(range(40))
            assert len(threads) == 0
            assert limit is None or max(counts) <= limit


def test_interrupted_spawn_does_not_wait() -> None:
    """Whatever step it is at, a signal handler may spawn, too, and wait for it."""

    def spawn_and_join() -> None:
        spawned = threads.spawn(partial(seen.append, "inner"))
        spawned.join(TIMEOUT / 2)
        joined.append(not spawned.is_alive())

    joined = list[bool]()
    for number in itertools.count(1):
        threads, seen = make(2), list[str]()
        spawn = partial(threads.spawn, partial(seen.append, "outer"))
        came = in_thread(partial(interrupt, spawn, number, spawn_and_join))
        wait_until(partial(has_run, threads, seen, 1 + came))
        if not came:
            break

    assert joined == [True] * (number - 1)
    assert joined


def has_run(threads: SpawnedThreads, seen: list[str], count: int) -> bool:
    return len(seen) == count and len(threads) == 0


# -- starting --------------------------------------------------------------------------


def test_thread_that_cannot_be_started(
    threads: SpawnedThreads, broken_start: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="can't start new thread"):
        threads.spawn(do_nothing)
    assert len(threads) == 0
    broken_start.undo()
    seen = list[int]()
    threads.spawn(partial(seen.append, 1)).join(TIMEOUT)

    assert seen == [1]


def test_thread_that_cannot_be_started_when_it_is_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next one that can be started lets it run, and before itself."""
    threads, seen = make(1), list[str]()
    with monkeypatch.context() as patch, Gate() as inside:
        first = threads.spawn(inside)
        inside.wait_entered()
        waiting = threads.spawn(partial(seen.append, "waited"))
        start = threading.Thread.start
        patch.setattr(threading.Thread, "start", no_more_threads)
        inside.open()
        first.join(TIMEOUT)
        assert waiting.is_alive()
        patch.setattr(threading.Thread, "start", start)
        last = threads.spawn(partial(seen.append, "last"))
    for one in (waiting, last):
        one.join(TIMEOUT)

    assert seen == ["waited", "last"]


def no_more_threads(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def start_and_raise(start: Any, thread: threading.Thread) -> None:
    start(thread)
    if threading.current_thread() is threading.main_thread():  # as signal handlers do
        raise KeyboardInterrupt


def test_interrupted_start_keeps_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler raised when the thread had been started already."""
    threads, gates = make(1), [Gate(), Gate(), Gate()]
    start = threading.Thread.start
    with gates[0], gates[1], gates[2]:
        with monkeypatch.context() as patch:
            patch.setattr(
                threading.Thread, "start", lambda thread: start_and_raise(start, thread)
            )
            with pytest.raises(KeyboardInterrupt):
                threads.spawn(gates[0])
        gates[0].wait_entered()
        more = [threads.spawn(gate) for gate in gates[1:]]
        assert [one.ident for one in more] == [None, None]
        assert len(threads) == 1
        gates[0].open()
        gates[1].wait_entered()
        assert more[1].ident is None
        assert len(threads) == 1
    for one in more:
        one.join(TIMEOUT)
        assert not one.is_alive()


def test_interrupted_start_of_another_ones_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread that had waited is not started twice, and blocks nobody."""
    threads, seen = make(1), list[str]()
    start = threading.Thread.start
    with Gate() as inside:
        first = threads.spawn(inside)
        inside.wait_entered()
        waiting = threads.spawn(partial(seen.append, "waited"))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more_threads)
            inside.open()
            first.join(TIMEOUT)
            patch.setattr(
                threading.Thread, "start", lambda thread: start_and_raise(start, thread)
            )
            with pytest.raises(KeyboardInterrupt):
                threads.spawn(partial(seen.append, "interrupted"))
    waiting.join(TIMEOUT)
    threads.spawn(partial(seen.append, "last")).join(TIMEOUT)

    assert seen.count("waited") == 1
    assert seen[-1] == "last"


AT_SHUTDOWN = """
import atexit
from kazoo_seqthreading import SequentialThreadingHandler

handler = SequentialThreadingHandler()
handler.start()

def spawn():
    try:
        handler.spawn(print, "spawned").join(10)
    except RuntimeError as error:  # as threading has it, Python 3.12 and later
        print(error)
    print("done")

atexit.register(spawn)
"""


def test_spawn_while_the_interpreter_ends() -> None:
    done = run_python(AT_SHUTDOWN)
    assert (done.stderr, done.returncode) == ("", 0)
    first, last = done.stdout.splitlines()

    assert first == "spawned" or sys.version_info >= (3, 12)
    assert last == "done"
