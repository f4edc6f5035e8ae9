"""Warnings about environments in which threads do not work as expected."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from ._exceptions import BlockingCallWarning

_warned: set[str] = set()


def warn_about_environment() -> None:
    """Warn, once each, if gevent, eventlet or uWSGI interfere with threads."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        _warn_once(
            "gevent has monkey-patched this process; use kazoo's own handler for it, "
            "kazoo.handlers.gevent.SequentialGeventHandler"
        )
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        _warn_once(
            "eventlet has monkey-patched this process; use kazoo's own handler for it, "
            "kazoo.handlers.eventlet.SequentialEventletHandler"
        )
    uwsgi = sys.modules.get("uwsgi")
    options = getattr(uwsgi, "opt", {})
    if uwsgi is not None and not {"threads", "enable-threads"} & _enabled_options(
        options
    ):
        _warn_once(
            "uWSGI runs without threads, so that a ZooKeeper session will time out "
            "between requests; start it with --enable-threads"
        )


def _enabled_options(options: object) -> set[str]:
    """Return the names of the uWSGI options that are enabled."""
    if not isinstance(options, dict):
        return set()
    off = (False, None, b"0", b"false", "0", "false")
    return {
        name.decode() if isinstance(name, bytes) else str(name)
        for name, value in options.items()
        if value not in off
    }


_asyncio: Any = None  #: the module, once it has been imported
_modules = 0  #: number of modules when it was last looked for


def warn_in_event_loop() -> None:
    """Warn of a blocking call if this thread runs an event loop in debug mode."""
    global _asyncio, _modules
    if _asyncio is None:
        # Not at every call: in the free-threaded build, a look-up takes the lock of the
        # dictionary, which a thread may hold that was frozen at interpreter shutdown.
        if len(sys.modules) == _modules:
            return
        _modules = len(sys.modules)
        _asyncio = sys.modules.get("asyncio")
        if _asyncio is None:
            return
    loop = _asyncio._get_running_loop()
    if loop is not None and loop.get_debug():
        warnings.warn(
            "a blocking ZooKeeper call holds up the event loop of this thread; await "
            "the result of the *_async method instead",
            BlockingCallWarning,
            stacklevel=_levels_to_caller(),
        )


def _levels_to_caller() -> int:
    """Return the ``stacklevel`` with which the caller warns of the code using kazoo."""
    levels = 1
    frame = sys._getframe(1).f_back
    while frame is not None:
        levels += 1
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in ("kazoo", __package__):
            break
        frame = frame.f_back
    return levels


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=4)
