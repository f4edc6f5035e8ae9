"""Spawned threads with a limit: one is asked for while another ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.races.bugs import finds
from tests.races.copies import Copy
from tests.races.explorer import access

Explore = Callable[..., None]


class Spawning:
    """Threads of which so many may run, and what has run."""

    def __init__(self, copy: Copy, limit: int = 1) -> None:
        self.limit = limit
        self.threads: Any = copy._spawned.SpawnedThreads("spawned", limit)
        self.ran: list[str] = []
        self.running = 0
        self.most = 0

    def spawn(self, name: str) -> None:
        self.threads.spawn(lambda: self._run(name))

    def _run(self, name: str) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        access(self, writes=True)  # where others may come in
        self.running -= 1
        self.ran.append(name)

    def have_run(self, *names: str) -> bool:
        return (
            sorted(self.ran) == sorted(names)
            and self.most <= self.limit
            and not len(self.threads)
        )


def spawn(*names: str) -> Callable[[Spawning], None]:
    def run(state: Spawning) -> None:
        for name in names:
            state.spawn(name)

    return run


@finds(
    ("_spawned", "            self._start_first()\n", "            pass\n"),
    ("_spawned", "setdefault(None, token) is token", "get(None) is None"),
)
def test_two_spawn(explore: Explore) -> None:
    explore(
        Spawning, spawn("a"), spawn("b"), then=lambda state: state.have_run("a", "b")
    )


def test_one_spawns_two(explore: Explore) -> None:
    explore(
        Spawning,
        spawn("a", "b"),
        lambda state: None,
        then=lambda state: state.have_run("a", "b"),
    )


def test_three_are_spawned(explore: Explore) -> None:
    explore(
        Spawning,
        spawn("a"),
        spawn("b"),
        spawn("c"),
        then=lambda state: state.have_run("a", "b", "c"),
    )


def test_a_limit_of_two(explore: Explore) -> None:
    explore(
        lambda copy: Spawning(copy, 2),
        spawn("a"),
        spawn("b"),
        spawn("c"),
        then=lambda state: state.have_run("a", "b", "c"),
    )
