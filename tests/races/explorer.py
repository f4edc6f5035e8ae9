"""Runs a few threads in every order that can make a difference.

The threads are real, but only one runs at a time, and it hands over where it is about
to touch what another may touch, too: it announces an *access* to a *place*, which is
an attribute, a container, a lock or a queue. Which thread goes on from there is what
is explored.

Of orders that differ only in accesses that do not depend on each other (different
places, or two reads), one is run: dynamic partial-order reduction after Flanagan and
Godefroid (POPL 2005), with sleep sets. ``test_explorer.py`` compares it with running
every order there is.

What waits without a time-out is not chosen until it can go on; if no thread can, that
is a deadlock. What waits with a time-out may be chosen at any moment: it then goes on
or times out, so that a time-out is explored between any two accesses of the others.

A thread that one of them starts, with :func:`start`, is one more of them.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Optional

from tests.support import TIMEOUT

#: More accesses than any test makes: a thread that spins would go on for ever.
MOST_STEPS = 5000

Clock = dict[int, int]


class Abandoned(BaseException):
    """Raised in the threads of a deadlock, so that they end."""


@dataclass
class _Access:
    """What a thread is about to do."""

    place: _Place
    writes: bool
    possible: Optional[Callable[[Any], bool]]  # in a state of the place; None: in any
    line: str

    def is_enabled(self) -> bool:
        return self.possible is None or self.possible(self.place[0].state)

    def depends_on(self, other: _Access) -> bool:
        return self.place == other.place and (self.writes or other.writes)


@dataclass
class _Node:
    """A state that was reached, and which threads go on from it."""

    enabled: set[int]
    asleep: set[int]  # whose continuations have been explored elsewhere
    chosen: int
    wanted: set[int]
    explored: set[int] = field(default_factory=set)


@dataclass
class _Step:
    """An access that was made."""

    thread: int
    access: _Access


class _Thread:
    def __init__(self, index: int, function: Callable[[], Any], after: Clock) -> None:
        self.index = index
        self.function = function
        self.access: Any = None  # an _Access, once it has come to one
        self.clock = dict(after)  # the last step of each thread that it comes after
        self.turn = threading.Semaphore(0)
        self.done = False
        self.error: Optional[BaseException] = None


class _Execution:
    """One order. It follows the nodes that are there, and appends others."""

    def __init__(
        self, nodes: list[_Node], functions: Sequence[Callable[[], Any]]
    ) -> None:
        self.nodes = nodes
        self.steps: list[_Step] = []
        self.threads: list[_Thread] = []
        self.deadlock = False
        self.redundant = False  # the rest was explored elsewhere
        self.broken: Optional[Exception] = None
        self._abandoned = False
        self._asleep: set[int] = set()
        self._touched: dict[Any, list[int]] = {}  # the steps, by place
        self._clocks: dict[Any, tuple[Clock, Clock]] = {}  # of writes, of all
        self._current: Optional[_Thread] = None
        self._ended = threading.Semaphore(0)
        self._started: list[threading.Thread] = []
        for function in functions:
            self.start(function, {})

    def start(self, function: Callable[[], Any], after: Clock) -> None:
        """Have another thread run *function*, when it is its turn."""
        thread = _Thread(len(self.threads), function, after)
        self.threads.append(thread)
        started = threading.Thread(target=self._run, args=(thread,), daemon=True)
        self._started.append(started)
        started.start()

    def run(self) -> None:
        gc.disable()  # it runs generators of an earlier execution, where it likes
        try:
            self._run_threads()
        finally:
            gc.enable()

    def _run_threads(self) -> None:
        self._hand_over()
        if not self._ended.acquire(timeout=TIMEOUT):
            raise AssertionError(f"a thread stands still\n{self.describe()}")
        for one in self._started:
            one.join(TIMEOUT)
            assert not one.is_alive(), f"a thread does not end\n{self.describe()}"

    def describe(self) -> str:
        """Return who did what, in which order."""
        lines = [f"  {step.thread}: {step.access.line}" for step in self.steps]
        for thread in self.threads:
            if not thread.done:
                where = thread.access.line if thread.access else "at its beginning"
                lines.append(f"  {thread.index} waits: {where}")
            if thread.error is not None:
                lines.append(f"  {thread.index} raised {thread.error!r}")
        return "\n".join(lines)

    def _run(self, thread: _Thread) -> None:
        _here.thread, _here.execution = thread, self
        thread.turn.acquire()
        try:
            if not self._abandoned:
                thread.function()
        except Abandoned:
            pass
        except BaseException as error:
            thread.error = error
        if not self._abandoned:
            thread.done = True
            self._hand_over()

    def announce(self, thread: _Thread, access: _Access) -> None:
        """Return when it is this thread's turn to make the access."""
        if not self._abandoned:
            thread.access = access
            if self._hand_over() is not thread:
                thread.turn.acquire()
        if self._abandoned:
            raise Abandoned

    def _hand_over(self) -> Optional[_Thread]:
        try:
            thread = self._choose()
        except Exception as error:
            thread, self.broken = None, error
        if thread is None:
            unfinished = [one for one in self.threads if not one.done]
            self._abandoned = bool(unfinished)
            self.deadlock = self._abandoned and self.broken is None
            self._ended.release()
            for one in unfinished:
                one.turn.release()
        elif thread is not self._current:
            self._current = thread
            thread.turn.release()
        return thread

    # -- the choice --------------------------------------------------------------------

    def _choose(self) -> Optional[_Thread]:
        waiting = [one for one in self.threads if not one.done]
        for thread in waiting:
            if thread.access is None:
                return thread  # what it does before its first access is its own
        enabled = {one.index for one in waiting if one.access.is_enabled()}
        if not self.redundant:
            for thread in waiting:
                self._find_race(thread)
        if not enabled:
            return None
        if len(self.steps) > MOST_STEPS:
            raise AssertionError(f"it never ends\n{self.describe()}")
        thread = self.threads[self._next(enabled)]
        self._make(thread)
        return thread

    def _next(self, enabled: set[int]) -> int:
        current = self._current.index if self._current else -1
        depth = len(self.steps)
        if depth < len(self.nodes):
            node = self.nodes[depth]
            assert node.enabled == enabled, "the threads do not do the same each time"
            self._asleep = node.asleep | node.explored
            return node.chosen
        awake = enabled - self._asleep
        if not awake:
            self.redundant = True
        free = awake or enabled
        chosen = current if current in free else min(free)
        if not self.redundant:
            node = _Node(enabled, set(self._asleep), chosen, {chosen})
            self.nodes.append(node)
        return chosen

    def _make(self, thread: _Thread) -> None:
        index, access, clock = len(self.steps), thread.access, thread.clock
        self.steps.append(_Step(thread.index, access))
        self._touched.setdefault(access.place, []).append(index)
        written, touched = self._clocks.get(access.place, ({}, {}))
        _join(clock, touched if access.writes else written)
        clock[thread.index] = index + 1
        touched = dict(touched)
        _join(touched, clock)
        self._clocks[access.place] = dict(clock) if access.writes else written, touched
        self._asleep = {
            one
            for one in self._asleep
            if one != thread.index
            and not self.threads[one].done
            and not self.threads[one].access.depends_on(access)
        }

    def _find_race(self, thread: _Thread) -> None:
        """Ask for the order in which the thread's next access comes earlier."""
        access, clock = thread.access, thread.clock
        for index in reversed(self._touched.get(access.place, ())):
            step = self.steps[index]
            if (
                step.thread != thread.index
                and index >= clock.get(step.thread, 0)  # else it always comes after it
                and access.depends_on(step.access)
            ):
                break
        else:
            return
        node = self.nodes[index]
        leading = {thread.index} | {
            one.thread
            for number, one in enumerate(self.steps[index + 1 :], index + 1)
            if number < clock.get(one.thread, 0)
        }
        leading &= node.enabled - node.asleep
        if not leading:
            node.wanted |= node.enabled
        elif not leading & node.wanted:
            node.wanted.add(thread.index if thread.index in leading else min(leading))


def _join(clock: Clock, other: Clock) -> None:
    for thread, step in other.items():
        if step > clock.get(thread, 0):
            clock[thread] = step


class _Here(threading.local):
    thread: Optional[_Thread] = None
    execution: Optional[_Execution] = None


_here = _Here()


def access(
    place: Any,
    name: str = "",
    *,
    writes: bool,
    possible: Optional[Callable[[Any], bool]] = None,
    what: str = "",
) -> None:
    """Announce an access to *place*, or to its attribute *name*.

    :param possible: tells for ``place.state`` whether the access can be made; what
        cannot, waits
    :param what: what to call it
    """
    thread, execution = _here.thread, _here.execution
    if thread is None or execution is None:
        if possible is not None and not possible(place.state):
            raise AssertionError(f"waits for ever, outside of the threads: {place!r}")
        return
    what = what or ("writes" if writes else "reads")
    line = f"{_caller()} {what} {type(place).__name__}{'.' * bool(name)}{name}"
    access = _Access(_Place(place, name), writes, possible, line)
    execution.announce(thread, access)


def start(function: Callable[[], Any]) -> None:
    """Have the explorer run *function* in a thread that this one starts."""
    thread, execution = _here.thread, _here.execution
    assert thread is not None, "it is started outside of the threads"
    assert execution is not None
    execution.start(function, thread.clock)


def _caller() -> str:
    frame = sys._getframe(2)
    while frame.f_globals.get("__package__") == __package__ and frame.f_back:
        frame = frame.f_back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


class _Place(tuple[Any, str]):
    """An object, told from others by its identity, and an attribute."""

    __slots__ = ()

    def __new__(cls, place: Any, name: str) -> _Place:
        return super().__new__(cls, (place, name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Place) and self[0] is other[0] and self[1] == other[1]

    def __hash__(self) -> int:
        return hash((id(self[0]), self[1]))


@dataclass
class Explored:
    """What was found."""

    executions: int  # orders that differ
    complete: bool  # no order is left
    failure: Optional[str]  # of the first that failed
    threads: int  # how many there were at the most


def explore(
    setup: Callable[[], Any],
    threads: Sequence[Callable[[Any], Any]],
    invariant: Callable[[Any], Any],
    seconds: float = 10.0,
    complete: bool = True,
) -> Explored:
    """Run *threads* in every order, until one fails.

    :param setup: makes what the threads and the invariant get
    :param invariant: true of it when the threads have ended; may raise what a false
        one is worth
    :param seconds: when to stop if there are too many orders
    :param complete: whether all orders of two threads are to be run nevertheless
    """
    nodes: list[_Node] = []
    deadline = time.monotonic() + seconds
    executions = most = 0
    while True:
        state = setup()
        execution = _Execution(
            nodes,
            [partial(one, state) for one in threads],
        )
        execution.run()
        if execution.broken is not None:
            raise execution.broken
        executions += not execution.redundant
        most = max(most, len(execution.threads))
        failure = _failure(execution, invariant, state)
        if failure is not None:
            text = f"{failure}\n{execution.describe()}"
            return Explored(executions, False, text, most)
        while nodes:
            node = nodes[-1]
            node.explored.add(node.chosen)
            left = node.wanted - node.explored - node.asleep
            if left:
                node.chosen = min(left)
                break
            nodes.pop()
        if not nodes or ((most > 2 or not complete) and time.monotonic() > deadline):
            return Explored(executions, not nodes, None, most)


def _failure(
    execution: _Execution, invariant: Callable[[Any], Any], state: Any
) -> Optional[str]:
    if execution.deadlock:
        return "deadlock"
    for thread in execution.threads:
        if thread.error is not None:
            return f"thread {thread.index} raised {thread.error!r}"
    try:
        return None if invariant(state) else "the invariant does not hold"
    except AssertionError as error:
        return f"the invariant does not hold: {error}"
