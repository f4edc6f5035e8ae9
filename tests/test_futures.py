"""``AsyncResult.as_future()``."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import traceback
import weakref
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

import pytest
from kazoo.exceptions import ConnectionClosedError, NoNodeError

from kazoo_seqthreading import AsyncResult, SequentialThreadingHandler, TimeoutError
from tests.concurrency import LIMIT, frequent_switches, together
from tests.support import MakeClient, refcounted

# -- on a server -----------------------------------------------------------------------


def test_wait(client: Any) -> None:
    futures = [client.get_async(path).as_future() for path in ("/", "/no", "/")]
    done, not_done = concurrent.futures.wait(futures, LIMIT)
    assert (done, not_done) == (set(futures), set())
    assert futures[0].result()[0] == futures[2].result()[0] == b""
    assert type(futures[1].exception()) is NoNodeError


def test_wait_for_the_first_exception(client: Any, result: AsyncResult[Any]) -> None:
    failing, pending = client.get_async("/no").as_future(), result.as_future()
    done, not_done = concurrent.futures.wait(
        [failing, pending], LIMIT, concurrent.futures.FIRST_EXCEPTION
    )
    assert (done, not_done) == ({failing}, {pending})
    result.set()


def test_as_completed(client: Any) -> None:
    futures = {client.create_async(f"/{n}").as_future(): f"/{n}" for n in range(200)}
    seen = set()
    for future in concurrent.futures.as_completed(futures, LIMIT):
        assert future.result() == futures[future]
        seen.add(future)
    assert seen == set(futures)


def test_wrap_future(client: Any) -> None:
    async def main() -> None:
        wrapped = asyncio.wrap_future(client.get_async("/").as_future())
        assert (await asyncio.wait_for(wrapped, LIMIT))[0] == b""
        wrapped = asyncio.wrap_future(client.get_async("/no").as_future())
        with pytest.raises(NoNodeError):
            await asyncio.wait_for(wrapped, LIMIT)

    asyncio.run(main())


def test_client_that_stops_completes_all(make_client: MakeClient) -> None:
    client = make_client()
    client.start()
    futures = [client.get_async("/").as_future() for _ in range(100)]
    client.stop()
    futures.append(client.get_async("/").as_future())
    done, not_done = concurrent.futures.wait(futures, LIMIT)
    assert not not_done
    for future in done:
        assert future.exception() is None or isinstance(
            future.exception(), ConnectionClosedError
        )
    assert isinstance(futures[-1].exception(), ConnectionClosedError)


# -- one future ------------------------------------------------------------------------


def test_one_for_each_result(result: AsyncResult[Any]) -> None:
    future = result.as_future()
    assert isinstance(future, Future)
    assert result.as_future() is future
    assert result._handler.async_result().as_future() is not future
    result.set("value")
    assert result.as_future() is future


@pytest.mark.parametrize("late", [False, True])
def test_value(result: AsyncResult[Any], late: bool) -> None:
    if late:
        result.set("value")
    future = result.as_future()
    if not late:
        assert not future.done()
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(0)
        result.set("value")
    assert future.done()
    assert future.result(0) == "value"


def test_future_of_a_stopped_handler() -> None:
    result = AsyncResult[str](SequentialThreadingHandler())
    future = result.as_future()
    result.set("value")
    assert future.result(LIMIT) == "value"


def test_exception_is_the_futures_own(result: AsyncResult[Any]) -> None:
    future = result.as_future()
    result.set_exception(NoNodeError("/no"))
    error = future.exception(0)
    assert type(error) is NoNodeError
    assert error.args == ("/no",)
    assert error is not result.exception
    with pytest.raises(NoNodeError):
        future.result(0)
    with pytest.raises(NoNodeError) as caught:
        result.get()
    names = [one.name for one in traceback.extract_tb(caught.value.__traceback__)]
    assert names == ["test_exception_is_the_futures_own", "get"]


def test_completed_once(result: AsyncResult[Any]) -> None:
    calls: list[Any] = []
    future = result.as_future()
    future.add_done_callback(lambda future: calls.append(future.result()))
    result.set("value")
    result.set("other")
    result.set_exception(NoNodeError)
    assert result.as_future() is future
    assert calls == ["value"]


def test_failing_done_callback_harms_nobody(result: AsyncResult[Any]) -> None:
    def fail(future: Future[Any]) -> None:
        raise SystemExit("out of a callback")

    called, next_ones = threading.Event(), list[Future[Any]]()
    result.as_future().add_done_callback(fail)
    result.as_future().add_done_callback(next_ones.append)
    result.rawlink(lambda result: called.set())
    result.set("value")
    assert called.wait(LIMIT)
    assert result.as_future().result(0) == "value"
    assert next_ones == [result.as_future()]


# -- cancelling ------------------------------------------------------------------------


def test_cancelled_future_leaves_the_request_alone(client: Any) -> None:
    made = client.create_async("/made")
    made.as_future().cancel()
    assert made.get(timeout=LIMIT) == "/made"
    assert client.exists("/made")


def test_cancelled_future_stays_cancelled(result: AsyncResult[Any]) -> None:
    future = result.as_future()
    assert future.cancel()
    with pytest.raises(TimeoutError):
        result.get_nowait()
    called = threading.Event()
    result.rawlink(lambda result: called.set())
    result.set("value")
    assert called.wait(LIMIT)
    assert result.get() == "value"
    assert future.cancelled()
    assert concurrent.futures.wait([future], 0).done == {future}
    with pytest.raises(CancelledError):
        future.result(0)


def test_completed_future_cannot_be_cancelled(result: AsyncResult[Any]) -> None:
    future = result.as_future()
    result.set("value")
    assert not future.cancel()
    assert future.result(0) == "value"


def test_cancelling_a_wrapped_future(result: AsyncResult[Any]) -> None:
    async def main() -> None:
        wrapped = asyncio.wrap_future(result.as_future())
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wrapped, 0.01)

    asyncio.run(main())
    assert result.as_future().cancelled()
    result.set("value")
    assert result.get() == "value"


# -- races -----------------------------------------------------------------------------


def test_race_of_set_and_cancel(handler: SequentialThreadingHandler) -> None:
    results = [AsyncResult[int](handler) for _ in range(500)]
    futures = [result.as_future() for result in results]

    def complete() -> None:
        for result in results:
            result.set(1)

    def cancel() -> list[bool]:
        return [future.cancel() for future in futures]

    with frequent_switches():
        _, cancelled = together(complete, cancel)
    assert [future.cancelled() for future in futures] == cancelled
    assert [result.get() for result in results] == [1] * 500
    done, not_done = concurrent.futures.wait(futures, LIMIT)
    assert not not_done
    assert {future.result() for future in done if not future.cancelled()} <= {1}


def test_race_for_the_future(handler: SequentialThreadingHandler) -> None:
    """Several threads ask for it, while the result is set."""
    results = [AsyncResult[int](handler) for _ in range(500)]
    calls: list[int] = []

    def ask() -> list[Future[int]]:
        return [result.as_future() for result in results]

    def complete() -> None:
        for result in results:
            result.set(1)

    with frequent_switches():
        *answers, _ = together(ask, ask, ask, complete)
    for futures in zip(*answers):
        assert len({id(future) for future in futures}) == 1
        futures[0].add_done_callback(lambda future: calls.append(future.result()))
    concurrent.futures.wait(answers[0], LIMIT)
    assert calls == [1] * 500


# -- memory ----------------------------------------------------------------------------


def test_future_outlives_its_result(handler: SequentialThreadingHandler) -> None:
    result = AsyncResult[str](handler)
    future = result.as_future()
    gone = weakref.ref(result)
    complete = partial(result.set, "value")
    del result
    complete()
    del complete
    gc.collect()
    assert gone() is None
    assert future.result(0) == "value"


@refcounted
def test_unanswered_result_is_freed_with_its_future(
    handler: SequentialThreadingHandler,
) -> None:
    result = AsyncResult[str](handler)
    gone = weakref.ref(result.as_future())
    del result
    gc.collect()
    assert gone() is None
