"""The exceptions and warnings of the package."""

from __future__ import annotations

import builtins
from typing import Optional

from kazoo.handlers.threading import KazooTimeoutError as _KazooTimeoutError


class TimeoutError(_KazooTimeoutError, builtins.TimeoutError):
    """Nothing was available in time.

    It is kazoo's ``KazooTimeoutError`` and Python's own :exc:`TimeoutError`, so
    that an ``except`` written for either catches it.
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
    """A blocking call was made in the thread that alone could end it.

    Raised at once by ``get()`` and ``wait()`` without a time-out in a client's
    connection thread, which runs the state listeners, for a reply that this very
    thread has to read. Use the ``*_async`` methods there, or move the work to a thread
    of its own with ``handler.spawn``.
    """


class BlockingCallWarning(RuntimeWarning):
    """A blocking call was made in a thread that runs an asyncio event loop.

    Issued, once per calling line, only while the loop is in debug mode.
    """
