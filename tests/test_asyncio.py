"""Awaiting results in asyncio."""

from __future__ import annotations

import asyncio
import builtins
import gc
import linecache
import os
import sys
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

import anyio
import pytest
from kazoo.exceptions import ConnectionClosedError, NodeExistsError, NoNodeError

from kazoo_seqthreading import (
    AsyncResult,
    BlockingCallWarning,
    SequentialThreadingHandler,
    TimeoutError,
)
from tests.background import in_background
from tests.internals import run_as_connection, waiting
from tests.support import (
    RAISED,
    TIMEOUT,
    Gate,
    MakeClient,
    frequent_switches,
    make_exception,
    refcounted,
    run_python,
    together,
    wait_until,
)
from tests.zookeeper import ZooKeeper

T = TypeVar("T")

needs_311 = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="asyncio.timeout and TaskGroup are of 3.11"
)


def run(coroutine: Coroutine[Any, Any, T], *, debug: bool = False) -> T:
    """Run *coroutine* in a loop of its own; it has a limited time."""

    async def limited() -> T:
        return await asyncio.wait_for(coroutine, TIMEOUT)

    return asyncio.run(limited(), debug=debug)


async def started(result: AsyncResult[T]) -> asyncio.Task[T]:
    """Return a task that waits for *result* already."""

    async def wait() -> T:
        return await result

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    assert waiting(result)
    return task


def in_a_thread(function: Callable[[], Any]) -> None:
    threading.Thread(target=function, daemon=True).start()


def complete(results: list[AsyncResult[int]]) -> None:
    for result in results:
        result.set(1)


# -- on a server -----------------------------------------------------------------------


def test_calls_of_a_client(client: Any) -> None:
    async def main() -> None:
        assert await client.create_async("/a", b"1") == "/a"
        data, stat = await client.get_async("/a")
        assert (data, stat.version) == (b"1", 0)
        assert (await client.set_async("/a", b"2")).version == 1
        assert await client.ensure_path_async("/x/y") == "/x/y"
        assert sorted(await client.get_children_async("/")) == ["a", "x"]
        assert await client.exists_async("/b") is None
        transaction = client.transaction()
        transaction.create("/t")
        transaction.delete("/a")
        assert await transaction.commit_async() == ["/t", True]
        with pytest.raises(NoNodeError):
            await client.get_async("/a")

    run(main())


def test_gather(client: Any) -> None:
    async def main() -> list[Any]:
        writes = [client.create_async(f"/{n}", b"%d" % n) for n in range(100)]
        assert await asyncio.gather(*writes) == [f"/{n}" for n in range(100)]
        reads = [client.get_async(f"/{n}") for n in (*range(100), "no")]
        return await asyncio.gather(*reads, return_exceptions=True)

    *answers, failure = run(main())

    assert [data for data, stat in answers] == [b"%d" % n for n in range(100)]
    assert type(failure) is NoNodeError


@needs_311
def test_task_group(client: Any) -> None:
    async def read(path: str) -> Any:
        return (await client.get_async(path))[0]

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read("/")) for _ in range(10)]
        assert [task.result() for task in tasks] == [b""] * 10
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(read("/"))
                group.create_task(read("/no"))
        except BaseExceptionGroup as failures:  # noqa: F821
            assert [type(one) for one in failures.exceptions] == [NoNodeError]
        else:
            pytest.fail("the group did not fail")

    run(main())


def test_several_clients_in_several_loops(make_client: MakeClient) -> None:
    clients = [make_client() for _ in range(2)]
    for client in clients:
        client.start()

    async def main() -> int:
        read = [client.get_async("/") for client in clients * 200]
        return len(await asyncio.gather(*read))

    assert together(*[lambda: run(main())] * 4) == [400] * 4


def test_client_that_stops_fails_what_is_awaited(client: Any) -> None:
    async def main() -> list[Any]:
        results = [client.get_async("/") for _ in range(100)]
        stopped = in_background(client.stop)
        answers = await asyncio.gather(*results, return_exceptions=True)
        stopped.result(TIMEOUT)
        with pytest.raises(ConnectionClosedError):
            await client.get_async("/")
        return answers

    for answer in run(main()):
        assert isinstance(answer, (tuple, ConnectionClosedError))


def test_await_in_a_callback_of_the_loop_of_another_thread(client: Any) -> None:
    """A completion callback hands work to a loop, which awaits more results."""
    done: Future[Any] = Future()

    async def chain() -> Any:
        await client.create_async("/chained", b"1")
        return await client.get_async("/chained")

    async def main() -> Any:
        loop = asyncio.get_running_loop()

        def linked(result: AsyncResult[Any]) -> None:
            task = asyncio.run_coroutine_threadsafe(chain(), loop)
            task.add_done_callback(lambda task: done.set_result(task.result()))

        client.get_async("/").rawlink(linked)
        return await asyncio.wrap_future(done)

    assert run(main())[0] == b"1"


# -- one result ------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
def test_value(result: AsyncResult[Any], late: bool) -> None:
    async def main() -> Any:
        if late:
            asyncio.get_running_loop().call_soon(result.set, "value")
        else:
            result.set("value")
        return await result

    assert run(main()) == "value"


def test_ready_result_does_not_suspend(result: AsyncResult[Any]) -> None:
    result.set("value")
    steps = result.__await__()
    with pytest.raises(StopIteration) as stop:
        next(steps)

    assert stop.value.value == "value"


def test_exception_class(result: AsyncResult[Any]) -> None:
    async def main() -> None:
        task = await started(result)
        in_a_thread(lambda: result.set_exception(NodeExistsError))
        with pytest.raises(NodeExistsError):
            await task

    run(main())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception(
    result: AsyncResult[Any], error: type[BaseException]
) -> None:
    async def main() -> None:
        in_a_thread(lambda: result.set_exception(error))
        with pytest.raises(error):
            await result

    run(main())


def test_several_awaiters_and_threads(result: AsyncResult[Any]) -> None:
    async def main() -> list[Any]:
        tasks = [await started(result) for _ in range(50)]
        in_a_thread(lambda: result.set("value"))
        return await asyncio.gather(*tasks)

    waiter = in_background(result.get, timeout=TIMEOUT)
    wait_until(lambda: waiting(result))

    assert run(main()) == ["value"] * 50
    assert waiter.result(TIMEOUT) == "value"


def test_several_loops(result: AsyncResult[Any]) -> None:
    begun = threading.Barrier(5)

    async def main() -> Any:
        task = await started(result)
        begun.wait(TIMEOUT)
        return await task

    def complete() -> None:
        begun.wait(TIMEOUT)
        result.set("value")

    answers = together(*[lambda: run(main())] * 4, complete)

    assert answers[:4] == ["value"] * 4


def test_without_a_loop(result: AsyncResult[Any]) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        next(result.__await__())
    assert not waiting(result)


def test_races_of_set_and_await(handler: SequentialThreadingHandler) -> None:
    results = [AsyncResult[int](handler) for _ in range(2000)]

    async def main() -> list[int]:
        in_a_thread(lambda: complete(results))
        return [await result for result in results]

    with frequent_switches():
        assert run(main()) == [1] * 2000


# -- cancellation ----------------------------------------------------------------------


def test_cancelled_task_leaves_the_result_alone(result: AsyncResult[Any]) -> None:
    async def main() -> Any:
        task, other = await started(result), await started(result)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not result.ready()
        assert len(waiting(result)) == 1  # the other one
        result.set("value")
        return await other

    assert run(main()) == "value"
    assert result.get() == "value"


def test_task_cancelled_between_result_and_wake(
    handler: SequentialThreadingHandler,
) -> None:
    results = [AsyncResult[int](handler) for _ in range(2)]

    async def main() -> int:
        cancelled, other = [await started(result) for result in results]
        complete(results)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        return await other

    assert run(main()) == 1


def test_wait_for(client: Any, result: AsyncResult[Any]) -> None:
    async def main() -> None:
        data, _ = await asyncio.wait_for(client.get_async("/"), TIMEOUT)
        assert data == b""
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(result, 0.01)
        assert not result.ready()
        assert not waiting(result)
        result.set("value")
        assert await asyncio.wait_for(result, TIMEOUT) == "value"

    run(main())


@needs_311
def test_timeout(client: Any, result: AsyncResult[Any]) -> None:
    async def main() -> None:
        async with asyncio.timeout(TIMEOUT):
            await client.get_async("/")
        with pytest.raises(builtins.TimeoutError):
            async with asyncio.timeout(0.01):
                await result
        assert not result.ready()
        assert not waiting(result)

    run(main())


def test_cancelling_while_it_completes(handler: SequentialThreadingHandler) -> None:
    """Whoever wins: the task ends, and the result is there."""
    results = [AsyncResult[int](handler) for _ in range(1000)]

    async def main() -> None:
        tasks = [await started(result) for result in results]
        in_a_thread(lambda: complete(results))
        for number, task in enumerate(tasks):
            if number % 100 == 0:
                await asyncio.sleep(0)
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome == 1 or type(outcome) is asyncio.CancelledError

    with frequent_switches():
        run(main())

    assert [result.get(timeout=TIMEOUT) for result in results] == [1] * 1000
    assert not any(map(waiting, results))


# -- loops that end --------------------------------------------------------------------


def test_loop_that_is_closed_before_the_result(
    handler: SequentialThreadingHandler, caplog: pytest.LogCaptureFixture
) -> None:
    result = AsyncResult[str](handler)
    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(started(result))
    loop.close()
    waiter = in_background(result.get, timeout=TIMEOUT)
    wait_until(lambda: len(waiting(result)) == 2)
    called = threading.Event()
    result.rawlink(lambda result: called.set())
    result.set("value")
    assert waiter.result(TIMEOUT) == "value"
    assert called.wait(TIMEOUT)
    assert not task.done()
    assert not [one for one in caplog.records if "kazoo" in one.name]
    silence(task)


@refcounted
def test_loop_that_is_closed_after_the_result(
    handler: SequentialThreadingHandler,
) -> None:
    """It was woken, and never woke up: it is freed, and others go on."""
    results = [AsyncResult[int](handler) for _ in range(3)]
    loop = asyncio.new_event_loop()
    tasks = [loop.run_until_complete(started(result)) for result in results]
    results[0].set(0)
    results[1].set(1)
    loop.close()
    results[2].set(2)
    gone = weakref.ref(loop)
    for task in tasks:
        silence(task)
    del loop, tasks, task

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    wait_until(is_gone, what="the loop, freed")
    late = AsyncResult[int](handler)

    assert run(awaited(late, 3)) == 3


async def awaited(result: AsyncResult[T], value: T) -> T:
    """Await *result*, which another thread completes with *value*."""
    task = await started(result)
    in_a_thread(lambda: result.set(value))
    return await task


def silence(task: asyncio.Task[Any]) -> None:
    """Have asyncio not complain of a task that its loop has left behind."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_loop_that_pauses(result: AsyncResult[Any]) -> None:
    """A loop that does not run when the result comes finds it when it runs again."""
    loop = asyncio.new_event_loop()
    try:
        task = loop.run_until_complete(started(result))
        result.set("value")
        assert loop.run_until_complete(asyncio.wait_for(task, TIMEOUT)) == "value"
    finally:
        loop.close()


class FailingLoop(asyncio.SelectorEventLoop):
    """Nobody wakes it from another thread."""

    failure: BaseException

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        raise self.failure


class UnusualLoop(asyncio.SelectorEventLoop):
    """Likewise."""

    @property
    def call_soon_threadsafe(self) -> Any:
        raise RuntimeError("on purpose")


def assert_that_others_go_on(
    handler: SequentialThreadingHandler, loop: asyncio.AbstractEventLoop
) -> None:
    """Await results in *loop*, and in others, and complete all together."""
    results = [AsyncResult[int](handler) for _ in range(3)]
    task = loop.run_until_complete(started(results[0]))

    async def main() -> list[int]:
        tasks = [await started(result) for result in results[1:]]
        complete(results)
        return await asyncio.wait_for(asyncio.gather(*tasks), TIMEOUT / 4)

    try:
        assert run(main()) == [1, 1]
    finally:
        silence(task)
        loop.close()


@pytest.mark.parametrize("name", RAISED)
def test_loop_that_cannot_be_woken_harms_no_other(
    handler: SequentialThreadingHandler, name: str
) -> None:
    loop = FailingLoop()
    loop.failure = make_exception(name)
    assert_that_others_go_on(handler, loop)


def test_loop_that_cannot_be_asked_harms_no_other(
    handler: SequentialThreadingHandler,
) -> None:
    assert_that_others_go_on(handler, UnusualLoop())


class BlockingLoop(asyncio.SelectorEventLoop):
    """It blocks who wakes it from another thread."""

    gate: Gate

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        self.gate()
        return super().call_soon_threadsafe(*args, **kwargs)


def test_loop_that_blocks_who_wakes_it_does_not_hold_up_a_client(
    make_client: MakeClient, own_server: ZooKeeper
) -> None:
    (node,) = own_server.nodes
    client = make_client(hosts=own_server.hosts)
    client.start()
    with closing(BlockingLoop()) as loop:
        with Gate() as loop.gate:
            node.suspend()  # the reply comes when the task waits for it
            task = loop.run_until_complete(started(client.get_async("/")))
            node.resume()
            loop.gate.wait_entered()
            assert client.get("/")[0] == b""
            called = threading.Event()
            client.get_async("/").rawlink(lambda result: called.set())
            assert called.wait(TIMEOUT)
        data, _ = loop.run_until_complete(asyncio.wait_for(task, TIMEOUT))
        assert data == b""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_forked_child_awaits() -> None:
    """Whatever the background thread did at the fork."""
    program = run_python(
        """
import asyncio, os, sys, threading, warnings
from kazoo_seqthreading import AsyncResult, SequentialThreadingHandler
from tests.support import Gate

class Loop(asyncio.SelectorEventLoop):
    def call_soon_threadsafe(self, *args, **kwargs):
        inside()
        return super().call_soon_threadsafe(*args, **kwargs)

async def main():
    result = AsyncResult(SequentialThreadingHandler())
    threading.Timer(0.01, result.set, ["value"]).start()
    return await asyncio.wait_for(result, 10)

async def fork_while_it_is_woken():
    result = AsyncResult(SequentialThreadingHandler())
    task = asyncio.ensure_future(asyncio.wait_for(result, 10))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    result.set("value")
    inside.wait_entered()
    pid = os.fork()
    if not pid:
        loop = asyncio.new_event_loop()
        asyncio._set_running_loop(None)
        os._exit(loop.run_until_complete(main()) != "value")
    inside.open()
    assert await task == "value"
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

warnings.simplefilter("ignore", DeprecationWarning)
with Gate() as inside:
    loop = Loop()
    status = loop.run_until_complete(fork_while_it_is_woken())
    loop.close()
sys.exit(status)
"""
    )
    assert program.returncode == 0, program.stderr


# -- what it costs ---------------------------------------------------------------------


class CountingLoop(asyncio.SelectorEventLoop):
    """Notes which threads wake it."""

    def __init__(self) -> None:
        super().__init__()
        self.woken_by: list[str] = []
        self.gate = Gate()
        self.gate.open()

    def call_soon_threadsafe(  # type: ignore[override]
        self, *args: Any, **kwargs: Any
    ) -> Any:
        self.woken_by.append(threading.current_thread().name)
        self.gate()
        return super().call_soon_threadsafe(*args, **kwargs)


@pytest.fixture
def loop() -> Iterator[CountingLoop]:
    loop = CountingLoop()
    yield loop
    loop.close()


WAKER = "kazoo-seqthreading-loop"


def test_results_that_are_there_wake_the_loop_once(
    loop: CountingLoop, handler: SequentialThreadingHandler
) -> None:
    results = [AsyncResult[int](handler) for _ in range(5000)]

    async def main() -> list[int]:
        tasks = [await started(result) for result in results]
        with Gate() as loop.gate:
            complete(results[:1])
            loop.gate.wait_entered()
            together(*[partial(complete, results[n::4]) for n in range(1, 5)])
        return await asyncio.wait_for(asyncio.gather(*tasks), TIMEOUT)

    assert loop.run_until_complete(main()) == [1] * 5000
    assert loop.woken_by == [WAKER] * 2


def test_no_connection_thread_wakes_a_loop(
    loop: CountingLoop, handler: SequentialThreadingHandler
) -> None:
    result = AsyncResult[str](handler)

    async def main() -> str:
        task = await started(result)
        in_a_thread(lambda: run_as_connection(handler, lambda: result.set("value")))
        return await asyncio.wait_for(task, TIMEOUT)

    assert loop.run_until_complete(main()) == "value"
    assert loop.woken_by == [WAKER]


def test_no_thread_per_await(handler: SequentialThreadingHandler) -> None:
    async def main() -> None:
        threads = threading.active_count()
        results = [AsyncResult[int](handler) for _ in range(1000)]
        tasks = [await started(result) for result in results]
        assert threading.active_count() <= threads
        complete(results)
        await asyncio.gather(*tasks)
        assert threading.active_count() <= threads + 1  # the background thread

    run(main())


# -- tracebacks ------------------------------------------------------------------------


def frames(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def test_traceback_is_clean(client: Any) -> None:
    async def read() -> None:
        await client.get_async("/no")

    async def main() -> None:
        try:
            await read()
        except NoNodeError as error:
            assert frames(error) == ["main", "read", "__await__"]
            assert error.__cause__ is error.__context__ is None
        else:
            pytest.fail("nothing was raised")

    run(main())


def test_awaiters_share_no_traceback(result: AsyncResult[Any]) -> None:
    async def caught() -> BaseException:
        try:
            await result
        except NoNodeError as error:
            return error
        raise AssertionError("nothing was raised")

    async def main() -> None:
        tasks = [asyncio.ensure_future(caught()) for _ in range(20)]
        await asyncio.sleep(0)
        result.set_exception(NoNodeError("/no"))
        errors = [*await asyncio.gather(*tasks), await caught()]
        assert len({id(error) for error in errors}) == 21
        assert {tuple(frames(error)) for error in errors} == {("caught", "__await__")}
        assert {str(error) for error in errors} == {"/no"}

    run(main())


# -- blocking calls --------------------------------------------------------------------


class Late(AsyncResult[Any]):
    """It is complete when somebody waits for it, and no earlier."""

    def set(self, value: Any = None) -> None:
        wait_until(lambda: waiting(self))
        super().set(value)


class LateHandler(SequentialThreadingHandler):
    """Its client's calls block."""

    late = False

    def async_result(self) -> AsyncResult[Any]:
        return Late(self) if self.late else super().async_result()


@pytest.fixture
def late_client(make_client: MakeClient) -> Iterator[Any]:
    client = make_client(handler=LateHandler())
    client.start()
    client.handler.late = True
    yield client
    client.handler.late = False


def line_of(warning: warnings.WarningMessage) -> str:
    assert warning.filename == __file__
    return linecache.getline(__file__, warning.lineno).strip()


def test_blocking_call_is_warned_of(late_client: Any, result: AsyncResult[Any]) -> None:
    client = late_client

    async def main() -> None:
        with pytest.warns(BlockingCallWarning) as caught:
            client.get("/")
            client.create("/a/b", makepath=True)
            client.retry(client.exists, "/")
            result.wait(0.001)
            with pytest.raises(TimeoutError):
                result.get(timeout=0.001)
        assert [line_of(warning) for warning in caught] == [
            'client.get("/")',
            'client.create("/a/b", makepath=True)',
            'client.retry(client.exists, "/")',
            "result.wait(0.001)",
            "result.get(timeout=0.001)",
        ]

    run(main(), debug=True)


def test_blocking_call_is_warned_of_once(late_client: Any) -> None:
    client = late_client

    async def main() -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            for _ in range(3):
                client.get("/")
        assert [line_of(warning) for warning in caught] == ['client.get("/")']

    run(main(), debug=True)


def test_what_does_not_block_is_not_warned_of(
    client: Any, result: AsyncResult[Any]
) -> None:
    # A warning would be an error, as everywhere in the tests.
    async def main() -> None:
        await client.get_async("/")
        with pytest.raises(TimeoutError):
            result.get_nowait()
        assert not result.wait(0)
        result.set("value")
        assert (result.get(), result.wait()) == ("value", True)
        assert await asyncio.wrap_future(in_background(client.get, "/"))

    run(main(), debug=True)


def test_blocking_call_is_not_warned_of_without_debug_mode(
    late_client: Any,
) -> None:
    async def main() -> Any:
        return late_client.get("/")

    assert run(main())[0] == b""


# -- anyio -----------------------------------------------------------------------------


def test_anyio(client: Any) -> None:
    async def main() -> Any:
        with anyio.move_on_after(0.01) as scope:
            await client.handler.async_result()
        assert scope.cancelled_caught
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(read, number)
        return await client.exists_async("/")

    async def read(number: int) -> None:
        data[number] = (await client.get_async("/"))[0]

    data: dict[int, bytes] = {}

    assert anyio.run(main).numChildren == 0
    assert data == dict.fromkeys(range(3), b"")
