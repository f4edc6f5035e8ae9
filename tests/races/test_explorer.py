"""The explorer finds every result that running every order there is gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

import pytest

from tests.races.doubles import Lock, SimpleQueue, Thread
from tests.races.explorer import access, explore

#: How many little programs are tried with each set of places.
PROGRAMS = 40


class Do(NamedTuple):
    """An access of a little program."""

    what: str
    where: str


class Memory:
    """Two variables, two locks and a queue."""

    def __init__(self) -> None:
        self.x = self.y = 0
        self.l, self.m = Lock(), Lock()
        self.q = SimpleQueue()
        self.seen: dict[int, list[Any]] = {}


def program(index: int, todo: list[Do]) -> Callable[[Memory], None]:
    def run(memory: Memory) -> None:
        seen = memory.seen[index] = []
        for number, (what, where) in enumerate(todo):
            place = getattr(memory, where)
            if what == "read":
                access(memory, where, writes=False)
                seen.append(getattr(memory, where))
            elif what == "write":
                access(memory, where, writes=True)
                setattr(memory, where, (index, number))
            elif what == "acquire":
                place.acquire()
            elif what == "try":
                seen.append(place.acquire(timeout=1))
            elif what == "release":
                access(place, writes=True)
                place.state = False
            elif what == "put":
                place.put((index, number))
            elif what == "get":
                seen.append(place.get())

    return run


def every_result(programs: list[list[Do]]) -> set[Any]:
    """Return the results of all orders, run one after the other without threads."""
    return set(_results(programs, [0] * len(programs), {}, [()] * len(programs)))


def _results(
    programs: list[list[Do]],
    at: list[int],
    memory: dict[str, Any],
    seen: list[tuple[Any, ...]],
) -> Iterator[Any]:
    stuck = True
    for index, todo in enumerate(programs):
        if at[index] == len(todo):
            continue
        after, new = dict(memory), list(seen)
        step = _step(todo[at[index]], (index, at[index]), after)
        if step is None:
            continue
        stuck = False
        new[index] = (*seen[index], *step)
        onwards = list(at)
        onwards[index] += 1
        yield from _results(programs, onwards, after, new)
    if stuck:
        ended = all(len(todo) == done for todo, done in zip(programs, at))
        yield tuple(seen) if ended else "deadlock"


def _step(do: Do, value: Any, memory: dict[str, Any]) -> Any:
    what, where = do
    held = memory.get(where, False)
    if what == "read":
        return (memory.get(where, 0),)
    if what == "write":
        memory[where] = value
    elif what == "acquire":
        if held:
            return None
        memory[where] = True
    elif what == "try":
        memory[where] = True
        return (not held,)
    elif what == "release":
        memory[where] = False
    elif what == "put":
        memory[where] = (*memory.get(where, ()), value)
    elif what == "get":
        if not memory.get(where):
            return None
        first, *rest = memory[where]
        memory[where] = tuple(rest)
        return (first,)
    return ()


def random_programs(random: Random, places: str) -> list[list[Do]]:
    """Return programs of two, three or four threads that use *places*."""
    todo = [
        Do(what, place)
        for place in places
        for what in {"q": ("put", "get"), "l": ("acquire", "try", "release")}.get(
            place, ("read", "write")
        )
    ]
    threads, most = random.choice([(2, 6), (3, 3), (3, 4), (4, 2)])
    return [random.choices(todo, k=random.randint(1, most)) for _ in range(threads)]


@pytest.mark.parametrize("places", ["x", "xy", "l", "xl", "q", "xlq"])
def test_finds_every_result(places: str) -> None:
    random = Random(places)
    for _ in range(PROGRAMS):
        programs = random_programs(random, places)
        found = set()

        def note(memory: Memory) -> bool:
            seen = tuple(tuple(memory.seen[i]) for i in range(len(programs)))  # noqa: B023
            found.add(seen)  # noqa: B023
            return True

        threads = [program(*one) for one in enumerate(programs)]
        results = every_result(programs)
        explored = explore(Memory, threads, note, seconds=60.0)
        if "deadlock" in results:
            assert explored.failure is not None, programs
            assert explored.failure.startswith("deadlock")
        else:
            assert explored.failure is None
            assert explored.complete
            assert found == results, programs


class Family:
    """A variable that a thread uses, another, and one that the first one starts."""

    def __init__(self) -> None:
        self.x = 0
        self.seen: list[int] = []
        self.child = Thread(target=lambda: self.write(2))

    def write(self, value: int) -> None:
        access(self, "x", writes=True)
        self.x = value

    def read(self) -> None:
        access(self, "x", writes=False)
        self.seen.append(self.x)

    def parent(self) -> None:
        self.write(1)
        self.child.start()
        self.read()
        self.child.join()
        self.read()


def test_a_thread_starts_another() -> None:
    found = set()

    def note(family: Family) -> bool:
        found.add((*family.seen, family.x))
        return True

    explored = explore(Family, [Family.parent, lambda family: family.write(3)], note)

    assert explored.complete
    assert found == {
        *((1, 2, 2), (1, 2, 3), (1, 3, 3)),
        *((2, 2, 2), (2, 2, 3), (2, 3, 3)),
        *((3, 2, 2), (3, 3, 3)),
    }
