"""What the package makes its locks, queues and containers of, for the explorer.

Each has the semantics of what it stands for, and announces its accesses. ``copies.py``
puts them where the package imports ``threading``, ``_thread``, ``queue``,
``collections``, ``time`` and ``socket``, and around lists, dicts and sets.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterator
from queue import Empty
from threading import TIMEOUT_MAX, get_ident, local  # noqa: F401 (imported from here)
from typing import Any, Optional

from tests.races.explorer import access, start


def monotonic() -> float:
    """``time.monotonic``, of a world without time: what depends on it, is as always."""
    return 0.0


process_time = monotonic


def sleep(seconds: float) -> None:
    """``time.sleep``, likewise."""


class Lock:
    """``threading.Lock`` and ``_thread.allocate_lock``."""

    def __init__(self) -> None:
        self.state = False  # whether it is held

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        waits = blocking and timeout < 0
        access(self, writes=True, possible=_is_free if waits else None, what="acquires")
        acquired, self.state = not self.state, True
        return acquired

    def release(self) -> None:
        access(self, writes=True, what="releases")
        if not self.state:
            raise RuntimeError("release unlocked lock")
        self.state = False

    def locked(self) -> bool:
        access(self, writes=False)
        return self.state

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()


def _is_free(held: bool) -> bool:
    return not held


allocate_lock = LockType = lock = Lock


class RLock:
    """``threading.RLock``."""

    def __init__(self) -> None:
        self.state: Optional[tuple[int, int]] = None  # whose, how often

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        waits = blocking and timeout < 0
        me = get_ident()

        def is_mine(state: Optional[tuple[int, int]]) -> bool:
            return state is None or state[0] == me

        access(self, writes=True, possible=is_mine if waits else None, what="acquires")
        if not is_mine(self.state):
            return False
        self.state = (me, 1 if self.state is None else self.state[1] + 1)
        return True

    def release(self) -> None:
        access(self, writes=True, what="releases")
        if self.state is None or self.state[0] != get_ident():
            raise RuntimeError("cannot release un-acquired lock")
        self.state = (self.state[0], self.state[1] - 1) if self.state[1] > 1 else None

    def locked(self) -> bool:
        access(self, writes=False)
        return self.state is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def _is_owned(self) -> bool:
        return self.state is not None and self.state[0] == get_ident()

    def _release_save(self) -> Any:
        access(self, writes=True, what="releases")
        state, self.state = self.state, None
        return state

    def _acquire_restore(self, state: Any) -> None:
        self.acquire()
        self.state = state


class Condition(threading.Condition):
    """``threading.Condition``, its own code, on these locks."""

    _waiters: Any

    def __init__(self, lock: Any = None) -> None:
        own: Any = RLock() if lock is None else lock
        super().__init__(own)

    def wait(self, timeout: Optional[float] = None) -> bool:
        if not self._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError("cannot wait on un-acquired lock")
        waiter = Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        saved = self._release_save()  # type: ignore[attr-defined]
        try:
            woken = waiter.acquire(True, -1 if timeout is None else max(timeout, 0))
        finally:
            self._acquire_restore(saved)  # type: ignore[attr-defined]
        if not woken and waiter in self._waiters:
            self._waiters.remove(waiter)
        return woken


class Event:
    """``threading.Event``."""

    def __init__(self) -> None:
        self.state = False

    def is_set(self) -> bool:
        access(self, writes=False)
        return self.state

    def set(self) -> None:
        access(self, writes=True, what="sets")
        self.state = True

    def clear(self) -> None:
        access(self, writes=True, what="clears")
        self.state = False

    def wait(self, timeout: Optional[float] = None) -> bool:
        access(
            self,
            writes=False,
            possible=bool if timeout is None else None,
            what="waits for",
        )
        return self.state


class Thread:
    """``threading.Thread``: the explorer runs it, as one more of its threads."""

    ident: Optional[int] = None

    def __init__(
        self,
        *,
        target: Callable[[], Any] = lambda: None,
        name: str = "",
        daemon: bool = True,
    ) -> None:
        self.name = name
        self.state = "new"
        self._target = target

    def start(self) -> None:
        access(self, writes=True, what="starts")
        if self.state != "new":
            raise RuntimeError("threads can only be started once")
        self.state = "alive"
        start(self._begin)

    def _begin(self) -> None:
        _current.thread = self
        self.ident = get_ident()
        self.run()
        access(self, writes=True, what="ends")
        self.state = "ended"

    def run(self) -> None:
        self._target()

    def is_alive(self) -> bool:
        access(self, writes=False)
        return self.state == "alive"

    def join(self, timeout: Optional[float] = None) -> None:
        waits = timeout is None
        access(self, writes=False, possible=_has_ended if waits else None)


def _has_ended(state: str) -> bool:
    return state == "ended"


_current = threading.local()


def current_thread() -> Any:
    """Return the double, if this thread is one."""
    return getattr(_current, "thread", None) or threading.current_thread()


class socket:
    """One end of a pair of non-blocking sockets, of which one only sends."""

    family = type = proto = 0

    def __init__(self, *_: int, fileno: Optional[_Pipe] = None) -> None:
        assert fileno is not None
        self.pipe = fileno

    def detach(self) -> _Pipe:
        return self.pipe

    def setblocking(self, _: bool) -> None:
        pass

    def send(self, data: bytes, flags: int = 0) -> int:
        access(self.pipe, writes=True, what="sends into")
        if self.pipe.state >= self.pipe.size:
            raise BlockingIOError
        self.pipe.state += len(data)
        return len(data)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        access(self.pipe, writes=True, what="receives from")
        if not self.pipe.state:
            raise BlockingIOError
        received = min(bufsize, self.pipe.state)
        self.pipe.state -= received
        return b"\0" * received

    def poll(self) -> None:
        """Wait until there is something to receive."""
        access(self.pipe, writes=False, possible=bool, what="polls")

    def close(self) -> None:
        pass


class _Pipe:
    """Between the two."""

    size = 2

    def __init__(self) -> None:
        self.state = 0  # how many bytes are in it


def socketpair() -> tuple[socket, socket]:
    pipe = _Pipe()
    return socket(fileno=pipe), socket(fileno=pipe)


class SimpleQueue:
    """``queue.SimpleQueue``."""

    def __init__(self) -> None:
        self._items: collections.deque[Any] = collections.deque()

    @property
    def state(self) -> int:
        return len(self._items)

    def put(self, item: Any, block: bool = True, timeout: Any = None) -> None:
        access(self, writes=True, what="puts into")
        self._items.append(item)

    put_nowait = put

    def get(self, block: bool = True, timeout: Optional[float] = None) -> Any:
        waits = block and timeout is None
        access(self, writes=True, possible=bool if waits else None, what="takes from")
        if not self._items:
            raise Empty
        return self._items.popleft()

    def get_nowait(self) -> Any:
        return self.get(False)

    def qsize(self) -> int:
        access(self, writes=False)
        return len(self._items)

    def empty(self) -> bool:
        return not self.qsize()

    def __class_getitem__(cls, item: Any) -> Any:
        return cls


#: The methods of containers that change nothing, and those that do.
_READS = (
    *("__bool__", "__contains__", "__eq__", "__ge__", "__getitem__", "__gt__"),
    *("__le__", "__len__", "__lt__", "__ne__", "__add__", "__and__", "__or__"),
    *("__sub__", "copy", "count", "difference", "get", "index", "intersection"),
    *("isdisjoint", "issubset", "issuperset", "items", "keys", "union", "values"),
)
_WRITES = (
    *("__delitem__", "__iadd__", "__iand__", "__ior__", "__isub__", "__setitem__"),
    *("add", "append", "appendleft", "clear", "difference_update", "discard"),
    *("extend", "extendleft", "insert", "pop", "popitem", "popleft", "remove"),
    *("reverse", "rotate", "setdefault", "sort", "update"),
)


def _announced(base: type[Any], name: str) -> Callable[..., Any]:
    method, writes = getattr(base, name), name in _WRITES
    what = f"calls {name} of"

    def announced(self: Any, *args: Any, **kwargs: Any) -> Any:
        access(self, writes=writes, what=what)
        return method(self, *args, **kwargs)

    return announced


def _iterated(self: Any) -> Iterator[Any]:
    items = self.__class__.__mro__[1].__iter__(self)
    while True:
        access(self, writes=False)
        try:
            item = next(items)
        except StopIteration:
            return
        yield item


def _tracked(base: type[Any]) -> Any:
    names = [one for one in (*_READS, *_WRITES) if hasattr(base, one)]
    methods: dict[str, Any] = {name: _announced(base, name) for name in names}
    methods["__bool__"] = lambda self: self.__len__() > 0
    methods["__iter__"] = _iterated
    methods["__hash__"] = base.__hash__
    return type(base.__name__, (base,), methods)


deque = _tracked(collections.deque)
_TRACKED = {base: _tracked(base) for base in (list, dict, set)}


def tracked(value: Any) -> Any:
    """Return the list, dict or set *value* as one that announces its accesses."""
    double = _TRACKED.get(type(value))
    return value if double is None else double(value)


def snapshot(kind: type[Any], *arguments: Any) -> Any:
    """Return ``kind(*arguments)``; of a container that is tracked, in one step."""
    if len(arguments) == 1 and type(arguments[0]) in _TRACKED.values():
        (items,) = arguments
        access(items, writes=False)
        base: Any = type(items).__mro__[1]
        return kind(base.__iter__(items))
    return kind(*arguments)
