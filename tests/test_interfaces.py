"""Both classes are complete, and would be with kazoo's interfaces as ABCs."""

from __future__ import annotations

import copy
import inspect
import pickle
import queue
import socket
import threading
import time
from abc import ABC, ABCMeta, abstractmethod
from contextlib import ExitStack
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import ConfigurationError
from kazoo.handlers.threading import SequentialThreadingHandler as KazoosHandler
from kazoo.interfaces import IAsyncResult, IHandler
from kazoo.retry import KazooRetry

import kazoo_seqthreading
from kazoo_seqthreading import AsyncResult, SequentialThreadingHandler
from tests.support import TIMEOUT, in_thread

HANDLER_ATTRIBUTES = ["name", "timeout_exception", "sleep_func"]
#: What the contract names beside the interface.
HANDLER_MEMBERS = [
    *HANDLER_ATTRIBUTES,
    *("running", "_running", "queue_impl", "queue_empty"),
    *("callback_queue", "completion_queue", "create_socket_pair"),
]


def abstract(interface: type[Any], *more: str) -> type[Any]:
    """Return *interface* as an ABC: every member it names, and *more*, is abstract."""
    names = {name for name in vars(interface) if not name.startswith("_")}
    methods = {
        name: abstractmethod(vars(interface)[name])
        for name in names
        if isinstance(vars(interface)[name], FunctionType)
    }

    def missing(self: object) -> None:
        """Be implemented by a subclass."""

    properties: dict[str, Any] = {
        name: property(abstractmethod(missing)) for name in more
    }
    members = {**methods, **properties}
    return ABCMeta(interface.__name__, (ABC,), members)


def rebased(cls: type[Any], interface: type[Any], abc: type[Any]) -> type[Any]:
    """Return *cls*, made anew with *abc* in place of *interface*."""
    bases = tuple(abc if base is interface else base for base in cls.__bases__)
    assert abc in bases
    members = {
        name: value
        for name, value in vars(cls).items()
        if not isinstance(value, (GetSetDescriptorType, MemberDescriptorType))
    }
    return ABCMeta(cls.__name__, bases, members)


def test_handler_implements_the_interface() -> None:
    abc = abstract(IHandler, *HANDLER_MEMBERS)
    assert len(abc.__abstractmethods__) == 11 + len(HANDLER_MEMBERS)
    made = rebased(
        SequentialThreadingHandler, IHandler, type("Running", (abc,), {"_running": 0})
    )

    assert isinstance(made(), abc)
    assert isinstance(SequentialThreadingHandler(), IHandler)


def test_result_implements_the_interface() -> None:
    abc = abstract(IAsyncResult, "value", "exception")
    assert len(abc.__abstractmethods__) == 11
    result: Any = rebased(AsyncResult, IAsyncResult, abc)(SequentialThreadingHandler())
    assert isinstance(result, abc)
    assert result.value is None
    result.set(1)

    assert [result.value, result.exception, result.get()] == [1, None, 1]
    assert isinstance(SequentialThreadingHandler().async_result(), IAsyncResult)


@pytest.mark.parametrize("missing", ["exception", "get_nowait"])
def test_abstract_finds_what_is_missing(missing: str) -> None:
    members = {name: None for name in dir(AsyncResult) if name != missing}
    abc = abstract(IAsyncResult, "value", "exception")
    kept = {name: members[name] for name in abc.__abstractmethods__ if name in members}
    with pytest.raises(TypeError, match=missing):
        type("Incomplete", (abc,), kept)()


def test_handler_takes_what_the_interface_takes() -> None:
    for name, function in vars(IHandler).items():
        if isinstance(function, FunctionType) and name != "select":
            ours = inspect.signature(getattr(SequentialThreadingHandler, name))
            for parameter in inspect.signature(function).parameters:
                assert parameter in ours.parameters, f"{name}({parameter})"


def test_handler_has_every_member_of_kazoos() -> None:
    public = {name for name in dir(KazoosHandler()) if not name.startswith("_")}
    handler = SequentialThreadingHandler()

    assert {name for name in public if not hasattr(handler, name)} == set()
    assert set(HANDLER_MEMBERS) <= public | {"_running"}
    assert all(hasattr(handler, name) for name in HANDLER_MEMBERS)


def test_what_kazoo_looks_at() -> None:
    handler = SequentialThreadingHandler()
    assert handler.name == KazoosHandler.name
    assert handler.sleep_func is time.sleep
    assert handler.queue_impl is queue.Queue
    assert handler.queue_empty is queue.Empty
    assert bool(handler)  # kazoo replaces one that is false
    event = handler.event_object()
    assert isinstance(event, threading.Event)
    assert (handler.running, handler._running) == (False, False)
    retry = KazooRetry(sleep_func=handler.sleep_func)
    client = KazooClient(handler=handler, connection_retry=retry, command_retry=retry)

    assert client.handler is handler


def test_class_in_place_of_an_instance() -> None:
    with pytest.raises(ConfigurationError):
        KazooClient(handler=SequentialThreadingHandler)


def test_locks() -> None:
    handler = SequentialThreadingHandler()
    for lock in (handler.lock_object(), handler.rlock_object()):
        assert lock.acquire()
        lock.release()
        with lock:
            pass
        assert lock.acquire(False)
        lock.release()
        assert lock.acquire(blocking=True, timeout=1)
        lock.release()
        with pytest.raises(RuntimeError):
            lock.release()


def test_lock_tells_whether_it_is_held() -> None:
    lock = SequentialThreadingHandler().lock_object()
    assert repr(lock).startswith("<Lock <unlocked")
    with lock:
        assert lock.locked()
        assert not lock.acquire(False)

    assert not lock.locked()


def test_rlock_is_threadings() -> None:
    lock = SequentialThreadingHandler().rlock_object()
    assert type(lock) is type(threading.RLock())
    changed = threading.Condition(lock)
    with lock, changed:
        assert not changed.wait(0.001)
    with pytest.raises(RuntimeError):
        lock.release()


def test_isinstance_of_kazoos_handler() -> None:
    """For code that asks; none of it is used."""
    handler = SequentialThreadingHandler()
    assert isinstance(handler, KazoosHandler)
    inherited = {
        name
        for name, value in vars(KazoosHandler).items()
        if isinstance(value, (FunctionType, property))
        and not name.startswith("_")
        and getattr(SequentialThreadingHandler, name) is value
    }

    assert inherited == set()
    assert list(vars(handler)) == ["_kazoo_seqthreading"]


def test_sockets_and_threads_are_what_kazoos_handler_returns() -> None:
    handler = SequentialThreadingHandler()
    thread = handler.spawn(threading.get_ident)
    assert isinstance(thread, threading.Thread)
    thread.join(TIMEOUT)
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for sock in (
            *handler.create_socket_pair(),
            handler.create_connection(server.getsockname(), timeout=TIMEOUT),
            handler.socket(),
        ):
            assert isinstance(stack.enter_context(sock), socket.socket)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_handler_cannot_be_copied(duplicate: Any) -> None:
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        duplicate(SequentialThreadingHandler())


def test_event_is_set_in_the_middle_of_a_set() -> None:
    """As by a signal handler."""
    event: Any = SequentialThreadingHandler().event_object()

    def interrupted() -> None:
        with event._cond:
            event.set()

    in_thread(interrupted)

    assert event.is_set()


def test_event_waits_as_threading_has_it() -> None:
    assert not SequentialThreadingHandler().event_object().wait(-1)


def test_a_subclass_as_patroni_makes_one() -> None:
    class Handler(SequentialThreadingHandler):
        def __init__(self, connect_timeout: float) -> None:
            super().__init__()
            self.patience = connect_timeout

        def create_connection(self, *args: Any, **kwargs: Any) -> Any:
            kwargs["timeout"] = self.patience
            return super().create_connection(*args, **kwargs)

        def select(self, *args: Any, **kwargs: Any) -> Any:
            return super().select(*args, **kwargs)

    handler = Handler(0.5)
    assert handler.select([], [], [], 0) == ([], [], [])
    with pytest.raises(ConnectionRefusedError):
        handler.create_connection(("127.0.0.1", 1))
    handler.start()
    assert handler.running
    handler.stop()


def test_public_names() -> None:
    assert kazoo_seqthreading.__all__ == sorted(kazoo_seqthreading.__all__)
    public = {name for name in vars(kazoo_seqthreading) if not name.startswith("_")}

    assert set(kazoo_seqthreading.__all__) - {"__version__"} <= public
    assert kazoo_seqthreading.__version__.count(".") == 2
