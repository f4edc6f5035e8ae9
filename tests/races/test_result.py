"""Results: completed, waited for and linked to at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from tests.internals import waiting
from tests.races.bugs import finds
from tests.races.copies import Copy

Explore = Callable[..., None]

FAILURE = OSError("that")
TIMED_OUT = object()


class Pending:
    """A result that is not ready, and what comes of it.

    It is the handler, too, and the handler's queue, which runs what it gets at once:
    so does that of a stopped handler.
    """

    running = True

    def __init__(self, copy: Copy) -> None:
        self.completion_queue = self
        self.copy = copy
        self.result = copy._result.AsyncResult(self)
        self.called: list[Any] = []  # with what, each time
        self.got: list[Any] = []

    def put(self, callback: Callable[[], Any]) -> None:
        callback()

    def outcome(self, timeout: Optional[float] = None) -> Any:
        """Return the value, ``FAILURE`` or ``TIMED_OUT``."""
        try:
            return self.result.get(timeout=timeout)
        except OSError as error:
            return FAILURE if error.args == FAILURE.args else TIMED_OUT

    def callback(self, result: Any) -> None:
        self.called.append(self.outcome())

    def keeps_nothing(self) -> bool:
        return not waiting(self.result) and not self.copy._result._outcomes


def set(state: Pending) -> None:
    state.result.set(1)


def set_exception(state: Pending) -> None:
    state.result.set_exception(FAILURE)


def rawlink(state: Pending) -> None:
    state.result.rawlink(state.callback)


def rawlink_another(state: Pending) -> None:
    state.result.rawlink(lambda result: state.got.append(1))


def link(state: Pending) -> None:
    """As kazoo's own chains are, and what awaits: it runs where it is completed."""
    entry = state.copy._callbacks.LinkedCallback(state.callback, None, state.result)
    state.result._AsyncResult__link(entry)


def unlink(state: Pending) -> None:
    state.result.unlink(state.callback)


def get(state: Pending) -> None:
    state.got.append(state.outcome())


def get_in_time(state: Pending) -> None:
    state.got.append(state.outcome(timeout=1))


def wait(state: Pending) -> None:
    state.got.append(state.result.wait() and state.outcome())


def linked(copy: Copy) -> Pending:
    state = Pending(copy)
    rawlink(state)
    return state


#: Who links, or waits, looks after that whether the result is complete.
LINK = (
    "        self.__waiting.append(link)\n        if self._exception is not _PENDING:"
)
WAIT = "            waiting.append(waiter)\n            if self._exception is _PENDING:"

#: The value is stored first, and both before who waits is looked at.
STORE = "_, self.value, self._exception = outcome"


@finds(
    ("_result", LINK, LINK.replace("self._exception is not _PENDING", "False")),
    ("_callbacks", "        if not self._claim.acquire(False):", "        if False:"),
)
def test_set_and_rawlink(explore: Explore) -> None:
    explore(
        Pending,
        set,
        rawlink,
        then=lambda state: state.called == [1] and state.keeps_nothing(),
    )


def test_set_and_two_rawlinks(explore: Explore) -> None:
    explore(
        Pending,
        set,
        rawlink,
        rawlink_another,
        then=lambda state: state.called == state.got == [1] and state.keeps_nothing(),
    )


@finds(
    (
        "_result",
        "return claims.setdefault(key, allocate_lock())",
        "return allocate_lock()",
    ),
)
def test_the_same_is_linked_twice(explore: Explore) -> None:
    def then(state: Pending) -> bool:
        state.result.set(1)
        return state.called == [1] and state.keeps_nothing()

    explore(Pending, rawlink, rawlink, then=then)


@finds(
    ("_result", LINK, LINK.replace("self._exception is not _PENDING", "False")),
)
def test_set_and_link(explore: Explore) -> None:
    explore(
        Pending,
        set,
        link,
        then=lambda state: state.called == [1] and state.keeps_nothing(),
    )


@finds(
    (
        "_result",
        "outcome = _outcomes.setdefault(key, (self, value, exception))",
        "outcome = (self, value, exception)",
    ),
    (
        "_result",
        "            if elected is not None:",
        "            if key in _outcomes:\n                elected = _outcomes[key]",
    ),
)
def test_set_and_set_exception(explore: Explore) -> None:
    explore(
        Pending,
        set,
        set_exception,
        then=lambda state: (
            state.outcome() == (FAILURE if state.result.exception else 1)
            and (state.result.value is None) == (state.outcome() is FAILURE)
            and state.keeps_nothing()
        ),
    )


def test_set_set_exception_and_rawlink(explore: Explore) -> None:
    explore(
        Pending,
        set,
        set_exception,
        rawlink,
        then=lambda state: state.called == [state.outcome()] and state.keeps_nothing(),
    )


def test_set_set_exception_and_get(explore: Explore) -> None:
    explore(
        Pending,
        set,
        set_exception,
        get,
        then=lambda state: state.got == [state.outcome()] and state.keeps_nothing(),
    )


@finds(
    ("_result", WAIT, WAIT.replace("self._exception is _PENDING", "True")),
    ("_result", "(wake if self._exception is None else release)(entry)", "pass"),
    ("_result", STORE, "_, _, self._exception = outcome; self.value = outcome[1]"),
)
def test_set_and_get(explore: Explore) -> None:
    explore(
        Pending,
        set,
        get,
        then=lambda state: state.got == [1] and state.keeps_nothing(),
    )


@finds(
    ("_result", STORE, "_, _, self._exception = outcome; self.value = outcome[1]"),
)
def test_set_and_get_that_times_out(explore: Explore) -> None:
    explore(
        Pending,
        set,
        get_in_time,
        then=lambda state: state.got in ([1], [TIMED_OUT]) and state.keeps_nothing(),
    )


def test_set_and_unlink(explore: Explore) -> None:
    explore(
        linked,
        set,
        unlink,
        then=lambda state: state.called in ([], [1]) and state.keeps_nothing(),
    )


def test_unlink_twice(explore: Explore) -> None:
    def then(state: Pending) -> bool:
        state.result.set(1)
        return state.called == [] and state.keeps_nothing()

    explore(linked, unlink, unlink, then=then)


@finds(
    (
        "_result",
        "waiting.remove(entry)\n            except ValueError:",
        "waiting.remove(entry)\n            except KeyError:",
    ),
)
def test_unlink_takes_one_back(explore: Explore) -> None:
    explore(
        linked,
        set,
        unlink,
        rawlink_another,
        then=lambda state: (
            state.called in ([], [1]) and state.got == [1] and state.keeps_nothing()
        ),
    )


@finds(
    (
        "_result",
        "tuple(waiting):\n            if type(entry) is LockType",
        "tuple(waiting)[:1]:\n            if type(entry) is LockType",
    ),
)
def test_set_wakes_all(explore: Explore) -> None:
    explore(
        Pending,
        set,
        wait,
        wait,
        then=lambda state: state.got == [1, 1] and state.keeps_nothing(),
    )


def set_in_batch(state: Pending) -> None:
    """As a connection thread does, which then sleeps."""
    batch = state.copy._batch
    batch.enable_batches(True)
    batch.start_batch()
    set(state)
    batch.flush_batch()


@finds(
    ("_batch", "    for waiter in waiters:\n        release(waiter)\n", ""),
)
def test_set_in_batch_wakes_all(explore: Explore) -> None:
    explore(
        Pending,
        set_in_batch,
        get,
        get_in_time,
        then=lambda state: (
            state.got.count(1) >= 1 and len(state.got) == 2 and state.keeps_nothing()
        ),
    )


@finds(
    (
        "_batch",
        "    except RuntimeError:\n        pass\n",
        "    finally:\n        pass\n",
    ),
)
def test_set_in_batch_and_set_exception(explore: Explore) -> None:
    explore(
        Pending,
        set_in_batch,
        set_exception,
        get,
        then=lambda state: state.got == [state.outcome()] and state.keeps_nothing(),
    )
