"""Waiting: how long, and where it would never end."""

from __future__ import annotations

import threading
from typing import Optional

from . import _fork
from ._errors import BlockingCallError
from ._kazoo import calling_listener


def check_timeout(timeout: Optional[float]) -> float:
    """Return *timeout*, seconds or ``None``, as ``Lock.acquire`` wants it.

    :raises TypeError: if it is not a number
    :raises ValueError: if it is negative or not a number of seconds at all
    """
    if timeout is None:
        return -1
    if not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number or None, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"timeout must be non-negative, not {timeout!r}")
    return min(timeout, threading.TIMEOUT_MAX)


def would_block_connection() -> BlockingCallError:
    """Return the error of a wait that only the waiting thread itself could end."""
    return BlockingCallError(
        f"{calling_listener()} blocks in the client's connection thread, which alone "
        "could end that; use the *_async methods there, or handler.spawn()"
    )


#: Exceptions of signal handlers that came while kazoo would have taken them for a
#: closed connection, by the thread's ident; its next wait raises them.
interrupts: dict[int, BaseException] = {}


def raise_interrupt() -> None:
    """Raise the exception of a signal handler that this thread has kept, if any."""
    interrupt = interrupts.pop(threading.get_ident(), None)
    if interrupt is not None:
        raise interrupt


@_fork.in_child
def _after_fork() -> None:
    interrupts.clear()
