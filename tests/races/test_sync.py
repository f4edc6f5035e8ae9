"""Events and locks of the handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.races.bugs import finds
from tests.races.copies import Copy

Explore = Callable[..., None]


class Waited:
    """An event and a lock, of a handler that is this."""

    def __init__(self, copy: Copy) -> None:
        self.connections = self
        self.inherited: dict[int, Any] = {}
        self.event: Any = copy._sync.Event(self)
        self.lock: Any = copy._sync.Lock()
        self.woken: list[bool] = []
        self.inside: list[int] = []
        self.together = False


def set(state: Waited) -> None:
    state.event.set()


def wait(state: Waited) -> None:
    state.woken.append(state.event.wait())


def lock(state: Waited) -> None:
    with state.lock:
        be_inside(state)


def lock_in_time(state: Waited) -> None:
    if state.lock.acquire(timeout=1):
        be_inside(state)
        state.lock.release()


def be_inside(state: Waited) -> None:
    state.inside.append(1)
    state.event.is_set()  # where others may come in
    state.together |= len(state.inside) > 1
    state.inside.pop()


def clear(state: Waited) -> None:
    state.event.clear()


def wait_in_time(state: Waited) -> None:
    state.woken.append(state.event.wait(1))


@finds(
    ("_sync", "        super().set()\n", "        pass\n"),
)
def test_event_wakes_all(explore: Explore) -> None:
    explore(Waited, set, wait, wait, then=lambda state: state.woken == [True, True])


@finds(
    ("_sync", "        super().clear()\n", "        pass\n"),
)
def test_event_set_and_cleared(explore: Explore) -> None:
    def set_and_clear(state: Waited) -> None:
        set(state)
        clear(state)

    explore(
        Waited,
        set_and_clear,
        wait_in_time,
        then=lambda state: len(state.woken) == 1 and not state.event.is_set(),
    )


@finds(
    ("_sync", "            self.__lock.release()\n", "            pass\n"),
    ("_sync", "self.__lock.acquire(blocking, timeout)", "True"),
)
def test_lock_keeps_others_out(explore: Explore) -> None:
    explore(Waited, lock, lock_in_time, then=lambda state: not state.together)
