"""Workers: put into, closed and given up at once, while the thread runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.races import doubles
from tests.races.bugs import finds
from tests.races.copies import Copy

Explore = Callable[..., None]


class Working:
    """A worker whose thread is one of the explored, and what became of callbacks."""

    def __init__(self, copy: Copy) -> None:
        self.ran: list[str] = []
        self.handed_back: list[str] = []
        self.worker: Any = copy._worker.Worker(
            "worker",
            doubles.Condition(),
            when_closed=lambda callback: self.handed_back.append(
                callback.keywords["name"]
            ),
            counters=copy._stats.QueueCounters(),
            on_busy=lambda: None,
        )
        self.worker.accept()

    def put(self, name: str) -> None:
        self.worker.put(self.callback(name))

    def callback(self, name: str) -> Callable[[], None]:
        from functools import partial

        return partial(self._ran, name=name)

    def _ran(self, name: str) -> None:
        self.ran.append(name)

    def ended_with(self, *names: str) -> bool:
        """Tell whether the thread ended, and each callback has run or come back."""
        done = sorted(self.ran + self.handed_back)
        return self.worker.ended and done == sorted(names) and self.worker.empty()


def put(state: Working) -> None:
    state.put("a")
    state.put("b")


def put_another(state: Working) -> None:
    state.put("c")


def abandon(state: Working) -> None:
    state.worker.abandon()
    state.worker.close()


def start_and_close(state: Working) -> None:
    state.worker.start()
    state.worker.close()


#: Who puts looks, after that, whether the thread still does.
HANDS_BACK = "        if self._closed:\n            self._hand_back()\n"


@finds(
    ("_worker", HANDS_BACK, ""),
)
def test_put_and_close(explore: Explore) -> None:
    explore(
        Working,
        start_and_close,
        put,
        then=lambda state: (
            state.ended_with("a", "b") and state.ran == sorted(state.ran)
        ),
    )


@finds(
    ("_worker", HANDS_BACK, ""),
)
def test_put_and_refuse(explore: Explore) -> None:
    def start_and_refuse(state: Working) -> None:
        state.worker.start()
        state.worker.close(refuse=True)

    explore(
        Working, start_and_refuse, put, then=lambda state: state.ended_with("a", "b")
    )


@finds(
    ("_worker", HANDS_BACK, ""),
)
def test_two_put_into_what_ends(explore: Explore) -> None:
    explore(
        Working,
        start_and_close,
        put,
        put_another,
        then=lambda state: state.ended_with("a", "b", "c"),
    )


@finds(
    (
        "_worker",
        "self._when_closed(entry[1] if type(entry) is tuple else entry)",
        "pass",
    ),
    (
        "_worker",
        "            if self.abandoned:\n                self._when_closed(callback)\n",
        "            if self.abandoned:\n",
    ),
)
def test_put_and_abandon(explore: Explore) -> None:
    def start_and_abandon(state: Working) -> None:
        state.worker.start()
        abandon(state)

    explore(
        Working, start_and_abandon, put, then=lambda state: state.ended_with("a", "b")
    )


class Following(Working):
    """With a worker that follows it, and runs nothing before it has ended."""

    def __init__(self, copy: Copy) -> None:
        super().__init__(copy)
        self.overlapped = False
        self.successor: Any = copy._worker.Worker(
            "worker",
            self.worker._changed,
            when_closed=self.handed_back.append,
            counters=copy._stats.QueueCounters(),
            on_busy=lambda: None,
            predecessors=[self.worker],
        )

    def run(self) -> None:
        self.worker.start()
        self.put("a")
        self.worker.close()

    def follow(self) -> None:
        self.successor.start()
        self.successor.put(self._run_successor)
        self.successor.close()

    def _run_successor(self) -> None:
        self.overlapped |= self.worker.thread is not None and not self.worker.ended


@finds(
    ("_worker", "while not (worker.ended or worker.abandoned)", "while False"),
    (
        "_worker",
        "self.ended = True\n                self._changed.notify_all()\n",
        "self.ended = True\n",
    ),
)
def test_one_follows(explore: Explore) -> None:
    def started(copy: Copy) -> Following:
        state = Following(copy)
        state.worker.ended = False  # as start() has it, before the successor is made
        return state

    explore(
        started,
        Following.run,
        Following.follow,
        then=lambda state: (
            state.ended_with("a") and state.successor.ended and not state.overlapped
        ),
    )
