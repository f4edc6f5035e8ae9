"""A completion callback runs in the context in which it was linked."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from kazoo_seqthreading import AsyncResult, SequentialThreadingHandler
from tests.support import TIMEOUT, in_thread

request_id: contextvars.ContextVar[str] = contextvars.ContextVar(
    "request_id", default="none"
)


@contextmanager
def request(name: str) -> Iterator[None]:
    """Be in the request called *name*, as a web framework would tell."""
    token = request_id.set(name)
    try:
        yield
    finally:
        request_id.reset(token)


def noting(future: Future[str]) -> Callable[[Any], None]:
    return lambda result: future.set_result(request_id.get())


@pytest.fixture(params=["running", "stopped"])
def handler(request: pytest.FixtureRequest) -> Iterator[SequentialThreadingHandler]:
    handler = SequentialThreadingHandler()
    if request.param == "running":
        handler.start()
    yield handler
    handler.stop()


def test_callbacks_of_a_client(client: Any) -> None:
    seen: dict[str, Future[str]] = {name: Future() for name in ("a", "b", "c")}
    for name, future in seen.items():
        with request(name):
            client.get_async("/").rawlink(noting(future))
    for name, future in seen.items():
        assert future.result(TIMEOUT) == name


@pytest.mark.parametrize("late", [False, True])
def test_context_is_that_of_the_link(
    handler: SequentialThreadingHandler, late: bool
) -> None:
    """Not that of the request, nor that of who completes it."""
    seen: Future[str] = Future()

    def complete() -> None:
        with request("of set"):
            result.set("value")

    with request("of the result"):
        result = AsyncResult[str](handler)
    if late:
        in_thread(complete)
    with request("of the link"):
        result.rawlink(noting(seen))
    with request("later"):
        if not late:
            in_thread(complete)
        assert seen.result(TIMEOUT) == "of the link"


def test_links_of_one_result_have_contexts_of_their_own(
    handler: SequentialThreadingHandler,
) -> None:
    result = AsyncResult[str](handler)
    seen: list[Future[str]] = [Future() for _ in range(3)]
    for number, future in enumerate(seen):
        with request(str(number)):
            result.rawlink(noting(future))
    result.set("value")

    assert [future.result(TIMEOUT) for future in seen] == ["0", "1", "2"]


def test_what_a_callback_sets_stays_in_its_context(
    handler: SequentialThreadingHandler,
) -> None:
    result = AsyncResult[str](handler)
    seen: Future[str] = Future()

    def change(result: Any) -> None:
        request_id.set("changed")

    with request("mine"):
        result.rawlink(change)
        result.rawlink(noting(seen))
        result.set("value")
        assert seen.result(TIMEOUT) == "mine"
        assert request_id.get() == "mine"


def test_what_a_callback_links_inherits_its_context(client: Any) -> None:
    seen: Future[str] = Future()

    def again(result: Any) -> None:
        client.get_async("/").rawlink(noting(seen))

    with request("mine"):
        client.get_async("/").rawlink(again)

    assert seen.result(TIMEOUT) == "mine"


def test_callback_may_complete_another_result(
    handler: SequentialThreadingHandler,
) -> None:
    """A context that is entered already is not entered again."""
    first, second = AsyncResult[int](handler), AsyncResult[int](handler)
    seen: Future[str] = Future()
    with request("mine"):
        first.rawlink(lambda result: second.set(2))
        second.rawlink(noting(seen))
    first.set(1)

    assert seen.result(TIMEOUT) == "mine"


def test_unlink_finds_a_link_of_another_context(
    handler: SequentialThreadingHandler,
) -> None:
    result = AsyncResult[int](handler)
    called: list[Any] = []
    seen: Future[str] = Future()
    with request("one"):
        result.rawlink(called.append)
    with request("other"):
        result.unlink(called.append)
        result.rawlink(noting(seen))
    result.set(1)

    assert seen.result(TIMEOUT) == "other"
    assert not called


def test_create_in_a_context(client: Any) -> None:
    """kazoo's own chain of callbacks loses nothing."""
    seen: Future[str] = Future()
    with request("mine"):
        client.create_async("/x/y/z", makepath=True).rawlink(noting(seen))
    assert seen.result(TIMEOUT) == "mine"


def test_task_keeps_its_context(client: Any) -> None:
    async def serve(name: str) -> tuple[str, str]:
        seen: Future[str] = Future()
        with request(name):
            client.get_async("/").rawlink(noting(seen))
            await client.get_async("/")
            mine = request_id.get()
            return mine, await asyncio.wait_for(asyncio.wrap_future(seen), TIMEOUT)

    async def main() -> Any:
        return await asyncio.gather(*[serve(str(n)) for n in range(20)])

    assert asyncio.run(main()) == [(str(n), str(n)) for n in range(20)]


def test_context_goes_with_the_callback(handler: SequentialThreadingHandler) -> None:
    """What a context holds is freed once the callback has run."""

    class Span:
        pass

    span: contextvars.ContextVar[Any] = contextvars.ContextVar("span")
    result = AsyncResult[int](handler)

    def link() -> weakref.ref[Span]:
        current = Span()
        span.set(current)
        result.rawlink(lambda result: None)
        return weakref.ref(current)

    gone = contextvars.copy_context().run(link)
    assert gone() is not None
    result.set(1)
    done = threading.Event()
    handler.completion_queue.put(done.set)
    assert done.wait(TIMEOUT)
    gc.collect()

    assert gone() is None
