"""Interrupts a call at every bytecode, one after the other.

A signal handler that raises, and ``PyThreadState_SetAsyncExc``, do it between two
bytecodes of the thread that they interrupt. CPython lets them do so where it checks for
them: from 3.10 on when a function is entered, after a call and after a jump backwards,
before that almost anywhere.

``Where.ANYWHERE`` is stricter than that: an order of bytecodes that bears it does not
depend on the compiler. ``Where.SIGNALS`` keeps to what can happen, and counts the
bytecodes of ``threading``, too. It is for calls that hold a lock: a ``with`` statement
releases one whatever a signal handler raises, but has bytecodes at which it would not.

``Thread.start`` counts, but not what it calls: there, an exception may leave the new
thread waiting for ever for a lock of ``threading``, before it runs anything of ours.
"""

from __future__ import annotations

import dis
import enum
import itertools
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Optional, TypeVar

import kazoo

import kazoo_seqthreading
from tests.background import in_background

T = TypeVar("T")

#: What is interrupted at every bytecode takes no longer.
MOST_SECONDS = 120.0


class Where(enum.Enum):
    """At which bytecodes a call is interrupted."""

    ANYWHERE = enum.auto()
    SIGNALS = enum.auto()


#: Whose bytecodes count: the package's, and kazoo's client's.
_OURS = tuple(
    str(Path(one.__file__ or "").parent / "") + "/"
    for one in (kazoo_seqthreading, kazoo)
)
_FILES = {Where.ANYWHERE: _OURS, Where.SIGNALS: (*_OURS, threading.__file__)}


class Interrupt(BaseException):
    """What the signal handler raises."""


def interrupt_everywhere(
    prepare: Callable[[], T],
    call: Callable[[T], Any],
    check: Callable[[T], Any],
    where: Where = Where.ANYWHERE,
) -> None:
    """Interrupt ``call(state)`` at its first bytecode, at its second, and so on.

    Each time *prepare* makes the state. *check* gets it after the call was
    interrupted, at last after one that was not, and raises an ``AssertionError`` if
    something is held, lost or hung.
    """
    # In a thread of its own: one that is interrupted by a tracer while it handles an
    # exception keeps that one.
    run = partial(_interrupt_everywhere, prepare, call, check, where)
    in_background(run).result(MOST_SECONDS)


def _interrupt_everywhere(
    prepare: Callable[[], T],
    call: Callable[[T], Any],
    check: Callable[[T], Any],
    where: Where,
) -> None:
    for number in itertools.count(1):
        state = prepare()
        tracer = _Tracer(number, where)
        try:
            tracer.run(call, state)
        except Interrupt:
            pass
        except RuntimeError as error:
            # Of Condition.wait: the lock was released, and not acquired again.
            if not isinstance(error.__context__, Interrupt):
                raise
        try:
            check(state)
        except AssertionError as error:
            at = tracer.interrupted_at or "not interrupted"
            raise AssertionError(f"bytecode {number}, {at}: {error}") from error
        if tracer.interrupted_at is None:
            assert number > 1, "there was nothing to interrupt"
            return


class _Tracer:
    def __init__(self, number: int, where: Where) -> None:
        self._left = number
        self._where = where
        self._last: dict[FrameType, int] = {}  # the offset of each one's last bytecode
        self.interrupted_at: Optional[str] = None

    def run(self, call: Callable[[T], Any], state: T) -> None:
        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # 3.12 looks for one at settrace
        sys.settrace(self._enter)
        try:
            call(state)
        finally:
            sys.settrace(before)
            self._last.clear()

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_FILES[self._where]):
            return None
        caller = frame.f_back
        while caller is not None:
            if caller.f_code is threading.Thread.start.__code__:
                return None
            caller = caller.f_back
        frame.f_trace = self._step  # 3.13 wants it before the next line
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "return":
            self._last.pop(frame, None)
        if event == "opcode" and self.interrupted_at is None:
            if self._counts(frame):
                self._left -= 1
            if not self._left:
                name = Path(frame.f_code.co_filename).name
                self.interrupted_at = f"{name}:{frame.f_lineno}"
                raise Interrupt(self.interrupted_at)
        return self._step

    def _counts(self, frame: FrameType) -> bool:
        if self._where is Where.ANYWHERE:
            return True
        last = self._last.get(frame)
        self._last[frame] = frame.f_lasti
        return last is None or last in _checks(frame.f_code)


def _checks(code: CodeType) -> set[int]:
    """Return the offsets of the bytecodes after which the interpreter checks."""
    offsets = _known.get(code)
    if offsets is None:
        offsets = _known[code] = {
            one.offset
            for one in dis.get_instructions(code)
            if one.opname.startswith("CALL")
            or one.opname == "RESUME"
            or ("JUMP" in one.opname and (one.argval or 0) <= one.offset)
        }
    return offsets


_known: dict[CodeType, set[int]] = {}
