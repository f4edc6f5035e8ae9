"""The exceptions and warnings of the package."""

from __future__ import annotations

import builtins
from typing import Optional

from ._bases import KazooTimeoutError as _KazooTimeoutError


class TimeoutError(_KazooTimeoutError, builtins.TimeoutError):
    """A result was not available in time.

    It is both kazoo's ``KazooTimeoutError`` and Python's :exc:`TimeoutError`: an
    ``except`` clause for either catches it. The package exports it under both names.
    """

    @property
    def strerror(self) -> Optional[str]:  # type: ignore[override]
        """The message; kazoo prints the ``strerror`` of every ``OSError``."""
        return str(self.args[0]) if self.args else None


def add_to_message(error: OSError, where: str) -> None:
    """Add *where* to the message of *error*."""
    error.strerror = f"{error.strerror or error} ({where})"
    error.args = (error.errno, error.strerror)


class BlockingCallError(RuntimeError):
    """A call would never return: it waits for a reply that its own thread must read.

    A client's connection thread reads the replies and runs the state listeners. If a
    listener makes a blocking call to the same client, without a timeout, this is raised
    at once. Use the client's ``*_async`` methods in a listener, or run the call in
    another thread with ``client.handler.spawn``.
    """


class BlockingCallWarning(RuntimeWarning):
    """A blocking call was made in a thread that runs an asyncio event loop.

    Issued once per calling line, if the loop is in debug mode. Await the result of an
    ``*_async`` method instead.
    """
