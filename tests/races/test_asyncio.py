"""Results awaited in an event loop, and futures, completed by several threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.races import doubles
from tests.races.bugs import finds
from tests.races.copies import Copy

Explore = Callable[..., None]


class Loop:
    """An event loop, and two results that tasks in it await."""

    running = True

    def __init__(self, copy: Copy) -> None:
        self.completion_queue = self
        self.calls: Any = doubles.SimpleQueue()
        copy._asyncio.asyncio = self
        self.results = [copy._result.AsyncResult(self) for _ in range(2)]
        self.tasks = [result.__await__() for result in self.results]
        self.futures: list[Future] = []
        self.got: list[Any] = []

    def get_running_loop(self) -> Loop:
        return self

    def create_future(self) -> Future:
        self.futures.append(Future())
        return self.futures[-1]

    def call_soon_threadsafe(self, function: Callable[..., Any], *args: Any) -> None:
        self.calls.put((function, args))

    def run(self) -> None:
        """Begin every task, and go on with each whose future is done."""
        waiting = []
        for task in self.tasks:
            count = len(self.futures)
            self._step(task)
            if len(self.futures) > count:
                waiting.append((task, self.futures[-1]))
        while waiting:
            function, args = self.calls.get()
            function(*args)
            for task, future in list(waiting):
                if future.done():
                    waiting.remove((task, future))
                    self._step(task)

    def _step(self, task: Any) -> None:
        try:
            next(task)
        except StopIteration as stop:
            self.got.append(stop.value)


class Future:
    """One of the loop's, which only the loop uses."""

    def __init__(self) -> None:
        self._done = False

    def __iter__(self) -> Any:
        yield

    def done(self) -> bool:
        return self._done

    def set_result(self, _: None) -> None:
        self._done = True


def set(number: int) -> Callable[[Loop], None]:
    return lambda state: state.results[number].set(number)


def one(copy: Copy) -> Loop:
    """Return a loop in which one result is awaited."""
    loop = Loop(copy)
    del loop.tasks[1]
    return loop


@finds(
    (
        "_result",
        "append(link)\n        if self._exception is not _PENDING:",
        "append(link)\n        if False:",
    ),
    ("_asyncio", "    waker.submit(future)\n", "    pass\n"),
)
def test_set_and_await(explore: Explore) -> None:
    explore(one, Loop.run, set(0), then=lambda state: state.got == [0])


def test_two_complete_at_once(explore: Explore) -> None:
    explore(
        Loop,
        Loop.run,
        set(0),
        set(1),
        then=lambda state: sorted(state.got) == [0, 1],
    )


def with_futures(copy: Copy) -> Loop:
    copy._futures  # imported now, not by whoever is first  # noqa: B018
    return Loop(copy)


def future(state: Loop) -> None:
    state.got.append(state.results[0].as_future())


def test_set_and_as_future(explore: Explore) -> None:
    explore(
        with_futures,
        set(0),
        future,
        future,
        then=lambda state: (
            state.got[0] is state.got[1] and state.got[0].result(timeout=0) == 0
        ),
    )
