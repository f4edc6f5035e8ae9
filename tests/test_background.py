"""Threads that do in the background what may block."""

from __future__ import annotations

import itertools
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from kazoo_seqthreading import _background, _fork
from kazoo_seqthreading._background import BackgroundThread
from tests.support import (
    Gate,
    frequent_switches,
    interrupt,
    run_python,
    together,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    MakeThread = Callable[[Callable[[list[Any]], float | None]], BackgroundThread]

NAME = "kazoo-seqthreading-test"


@pytest.fixture
def make_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeThread]:
    """Return a function that makes background threads, which soon end."""
    monkeypatch.setattr(_background, "IDLE_SECONDS", 0.01)
    known = len(_fork._functions)
    yield partial(BackgroundThread, NAME)
    del _fork._functions[known:]


def ended() -> bool:
    return NAME not in [thread.name for thread in threading.enumerate()]


def test_entries_are_handled_in_order_and_what_waits_together(
    make_thread: MakeThread,
) -> None:
    handled: list[list[Any]] = []
    inside = Gate()

    def handle(entries: list[Any]) -> None:
        if entries == [0]:
            inside()
        handled.append(entries)

    thread = make_thread(handle)
    with inside:
        for number in range(4):
            thread.submit(number)
            inside.wait_entered()
    wait_until(lambda: len(handled) == 2)

    assert handled == [[0], [1, 2, 3]]


def test_ends_when_it_is_idle_and_starts_again(make_thread: MakeThread) -> None:
    handled: list[Any] = []
    thread = make_thread(handled.extend)
    for number in range(3):
        thread.submit(number)
        wait_until(ended)
        assert handled == list(range(number + 1))


def test_is_called_again_when_it_wants_to_be(make_thread: MakeThread) -> None:
    """And stays for that, without an entry."""
    handled: list[list[Any]] = []

    def handle(entries: list[Any]) -> float | None:
        handled.append(entries)
        return 0.02 if len(handled) < 3 else None

    make_thread(handle).submit("entry")
    wait_until(ended)

    assert handled == [["entry"], [], []]


def test_no_entry_is_left_behind(
    make_thread: MakeThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the thread is about to end all the time."""
    monkeypatch.setattr(_background, "IDLE_SECONDS", 0.0)
    handled: list[Any] = []
    thread = make_thread(handled.extend)

    def submit(numbers: range) -> None:
        for number in numbers:
            thread.submit(number)

    with frequent_switches():
        together(*(partial(submit, range(n, 3000, 3)) for n in range(3)))
    wait_until(lambda: len(handled) == 3000)
    wait_until(ended)

    assert sorted(handled) == list(range(3000))


def test_submit_in_the_middle_of_submit(make_thread: MakeThread) -> None:
    """As in a signal handler."""
    for number in itertools.count(1):
        handled: list[Any] = []
        thread = make_thread(handled.extend)
        if not interrupt(
            partial(thread.submit, "outer"), number, partial(thread.submit, "inner")
        ):
            break
        wait_until(ended)
        assert sorted(handled) == ["inner", "outer"]
    assert number > 10


def test_thread_that_cannot_be_started_is_started_with_the_next_entry(
    make_thread: MakeThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    handled: list[Any] = []
    thread = make_thread(handled.extend)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        thread.submit("first")
    thread.submit("second")
    wait_until(lambda: handled == ["first", "second"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_forked_child_has_one_of_its_own() -> None:
    """The parent's entries are the parent's."""
    program = run_python(
        """
import os, sys, warnings
from kazoo_seqthreading._background import BackgroundThread
from tests.support import Gate, wait_until

warnings.simplefilter("ignore", DeprecationWarning)
handled, inside = [], Gate()

def handle(entries):
    handled.extend(entries)
    if entries == ["parent"]:
        inside()

thread = BackgroundThread("test", handle)
with inside:
    thread.submit("parent")
    inside.wait_entered()
    thread.submit("queued")
    pid = os.fork()
    if not pid:
        try:
            thread.submit("child")
            wait_until(lambda: len(handled) > 1)
            os._exit(handled != ["parent", "child"])
        finally:
            os._exit(2)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
wait_until(lambda: handled == ["parent", "queued"])
sys.exit(code)
"""
    )
    assert program.returncode == 0, program.stderr
