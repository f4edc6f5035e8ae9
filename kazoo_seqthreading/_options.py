"""A handler's options, and the check that they have sensible values."""

from __future__ import annotations

import ssl
from typing import NamedTuple, Optional

from ._create_connection import KeepAlive

_SECONDS = (
    "stop_timeout",
    "slow_callback_duration",
    "connect_timeout",
    "slow_request_duration",
)


class Options(NamedTuple):
    """The options of a handler; :class:`SequentialThreadingHandler` explains them."""

    stop_timeout: float
    slow_callback_duration: Optional[float]
    connect_timeout: Optional[float]
    ssl_context: Optional[ssl.SSLContext]
    tcp_keepalive: KeepAlive
    max_spawned_threads: Optional[int]
    slow_request_duration: Optional[float]

    def check(self) -> None:
        """Raise a :exc:`TypeError` or :exc:`ValueError` if one is not sensible."""
        for name in _SECONDS:
            value = getattr(self, name)
            if value is None and name != "stop_timeout":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number of seconds, not {value!r}")
            if not (value > 0 or (value == 0 and name == "stop_timeout")):
                raise ValueError(f"{name} must be positive, not {value!r}")
        context, keepalive = self.ssl_context, self.tcp_keepalive
        if context is not None and not isinstance(context, ssl.SSLContext):
            raise TypeError(f"ssl_context must be an SSLContext, not {context!r}")
        if not isinstance(keepalive, bool) and not (
            isinstance(keepalive, tuple)
            and len(keepalive) == 3
            and all(isinstance(value, int) and value > 0 for value in keepalive)
        ):
            raise TypeError(
                "tcp_keepalive must be a bool or (idle, interval, count), "
                f"not {keepalive!r}"
            )
        limit = self.max_spawned_threads
        if limit is not None:
            if isinstance(limit, bool) or not isinstance(limit, int):
                raise TypeError(f"max_spawned_threads must be a number, not {limit!r}")
            if limit < 1:
                raise ValueError("max_spawned_threads must be at least 1")
