"""The classes of kazoo that ours inherit from, as type checkers may know them.

kazoo has no types. Where a checker does not read its sources, its classes are ``Any``,
and a class that inherits from ``Any`` has every attribute: no mistake in the use of it
would be found. So the name of an unknown class has to mean one of ``_stand_ins``, and
the name of a known one the class itself, or ours would not be accepted for it.

``import *`` takes nothing from a module that is unknown. Of several definitions mypy
takes the first, and pyright the last.
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
