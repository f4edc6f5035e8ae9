"""The classes of kazoo that this package's inherit from, for all type checkers.

kazoo has no types. For a checker that does not read its sources, its classes are
``Any``, and a class that inherits from ``Any`` has every attribute, so that no misuse
is reported. So the name of an unknown class must refer to one of ``_stand_ins``, and
the name of a known class to that class, or ours would not be accepted in its place.

``import *`` imports nothing from an unknown module. Of several definitions mypy uses
the first, pyright the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # isort: off
    from kazoo.handlers.threading import *  # noqa: F403
    from kazoo.interfaces import *  # noqa: F403
    from kazoo.protocol.states import *  # noqa: F403
    from ._stand_ins import *  # type: ignore[assignment]  # noqa: F403
    from kazoo.handlers.threading import *  # noqa: F403
    from kazoo.interfaces import *  # noqa: F403
    from kazoo.protocol.states import *  # noqa: F403
    # isort: on
else:
    from kazoo.handlers.threading import KazooTimeoutError, SequentialThreadingHandler
    from kazoo.interfaces import IAsyncResult, IHandler
    from kazoo.protocol.states import Callback

__all__ = [
    "Callback",
    "IAsyncResult",
    "IHandler",
    "KazooTimeoutError",
    "SequentialThreadingHandler",
]
