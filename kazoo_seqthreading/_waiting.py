"""Checks on blocking calls: timeouts, deadlocks and pending interrupts."""

from __future__ import annotations

import threading
from typing import Optional

from . import _fork
from ._exceptions import BlockingCallError
from ._kazoo import calling_listener


def check_timeout(timeout: Optional[float]) -> float:
    """Return *timeout*, seconds or ``None``, in the form that ``Lock.acquire`` takes.

    :raises TypeError: if it is not a number
    :raises ValueError: if it is negative or NaN
    """
    if timeout is None:
        return -1
    if not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number or None, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"timeout must be non-negative, not {timeout!r}")
    return min(timeout, threading.TIMEOUT_MAX)


def make_blocking_call_error() -> BlockingCallError:
    """Return the error for a wait that only the waiting thread itself could end."""
    return BlockingCallError(
        f"{calling_listener()} blocks in the client's connection thread, which alone "
        "could end that; use the *_async methods there, or handler.spawn()"
    )


#: Exceptions of signal handlers, by the thread's ident, that were held back because
#: kazoo would have taken them for a closed connection. The thread's next wait raises
#: them.
interrupts: dict[int, BaseException] = {}


def raise_interrupt() -> None:
    """Raise the exception that was held back in this thread, if any."""
    interrupt = interrupts.pop(threading.get_ident(), None)
    if interrupt is not None:
        raise interrupt


@_fork.run_in_child
def _after_fork() -> None:
    interrupts.clear()
