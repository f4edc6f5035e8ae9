"""The exceptions and warnings of the package."""

from __future__ import annotations

import builtins
from typing import Optional

from ._bases import KazooTimeoutError as _KazooTimeoutError


class TimeoutError(_KazooTimeoutError, builtins.TimeoutError):
    """Nothing was available in time.

    It is both kazoo's ``KazooTimeoutError`` and Python's :exc:`TimeoutError`: an
    ``except`` clause for either catches it. The package has it under both names.
    """

    @property
    def strerror(self) -> Optional[str]:  # type: ignore[override]
        """The message: kazoo prints ``strerror`` of whatever is an ``OSError``."""
        return str(self.args[0]) if self.args else None


def add_to_message(error: OSError, where: str) -> None:
    """Have the message of *error* tell *where*."""
    error.strerror = f"{error.strerror or error} ({where})"
    error.args = (error.errno, error.strerror)


class BlockingCallError(RuntimeError):
    """A call would never return: it waits for a reply that its own thread has to read.

    A client's connection thread reads the replies and runs the state listeners. A call
    without a time-out that waits there for a reply to the same client raises this at
    once. Use the client's ``*_async`` methods in a listener, or give the work to a
    thread of its own with ``client.handler.spawn``.
    """


class BlockingCallWarning(RuntimeWarning):
    """A blocking call was made in a thread that runs an asyncio event loop.

    Issued once per calling line, while the loop is in debug mode. ``await`` the result
    of an ``*_async`` method instead.
    """
