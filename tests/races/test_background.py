"""Background threads: entries are submitted while the thread ends, which is idle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from tests.races.bugs import finds
from tests.races.copies import Copy

Explore = Callable[..., None]


class Background:
    """A background thread, and what it was given."""

    def __init__(self, copy: Copy) -> None:
        self.handled: list[Any] = []
        self.thread: Any = copy._background.BackgroundThread("thread", self._handle)

    def _handle(self, entries: list[Any]) -> Optional[float]:
        self.handled += entries
        return None


def submit(*entries: str) -> Callable[[Background], None]:
    def run(state: Background) -> None:
        for entry in entries:
            state.thread.submit(entry)

    return run


#: The thread looks once more after it has said that it ends.
ENDS = "        self._thread = None\n        if not self._entries.empty():"


@finds(
    (
        "_background",
        "        self._entries.put(entry)\n        self._start()",
        "        self._start()\n        self._entries.put(entry)",
    ),
    ("_background", ENDS, "        if not self._entries.empty():"),
    ("_background", ENDS, "        self._thread = None\n        if False:"),
)
def test_two_submit(explore: Explore) -> None:
    explore(
        Background,
        submit("a"),
        submit("b"),
        then=lambda state: sorted(state.handled) == ["a", "b"],
    )


@finds(
    ("_background", ENDS, "        self._thread = None\n        if False:"),
)
def test_one_submits_again_and_again(explore: Explore) -> None:
    explore(
        Background,
        submit("a", "b"),
        submit("c"),
        then=lambda state: sorted(state.handled) == ["a", "b", "c"],
    )
