"""Fixtures: the handler under test, servers to run it on, and a search for leaks.

``SIGTERM`` ends the tests as a Ctrl-C does: what the fixtures have made is removed.
"""

from __future__ import annotations

import atexit
import gc
import os
import secrets
import signal
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Last: where the package is installed, as tox has it, that one is tested.
sys.path.append(str(Path(__file__).parent.parent))

import kazoo.handlers.threading
import pytest
from kazoo.exceptions import NotEmptyError

from tests import pollers
from tests.background import in_background
from tests.support import KazooClient, descriptors, make_tls, thread_stacks, wait_until
from tests.zookeeper import ZooKeeper

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import FrameType

    from kazoo_seqthreading import AsyncResult, SequentialThreadingHandler
    from tests.support import MakeClient

#: How long closing a client may take, in seconds: kazoo waits for 10 by itself.
CLOSE_LIMIT = 30.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--handler",
        choices=("ours", "kazoo"),
        default="ours",
        help="the handler under test; tests marked stock_fails must fail on kazoo's",
    )
    parser.addoption(
        "--poller",
        choices=tuple(pollers.HIDDEN),
        default="epoll",
        help="hide what is better: poll is what macOS has, select what Windows has",
    )


def pytest_configure(config: pytest.Config) -> None:
    pollers.use(config.getoption("--poller"))
    if is_stock(config):  # it leaks sockets, and its threads die
        for warning in (
            "ResourceWarning",
            "pytest.PytestUnraisableExceptionWarning",
            "pytest.PytestUnhandledThreadExceptionWarning",
        ):
            config.addinivalue_line("filterwarnings", f"ignore::{warning}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("ours_alone")
    if marker and is_stock(item.config):
        pytest.skip(f"not with kazoo's handler: {marker.args[0]}")


class Interrupts:
    """Ends the session at the first signal; fixtures are set up and torn down first."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._fixtures = False  # are at work
        # Also where they are ignored, as Ctrl-C is in background jobs: what is ignored
        # here would be ignored by the programs that are tested.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)
        if hasattr(os, "fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        first = not self._session.shouldstop
        # The exception may be lost: kazoo makes another one of it in some places.
        self._session.shouldstop = signal.Signals(number).name
        if not (first and self._fixtures):
            raise KeyboardInterrupt

    def _forget(self) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        yield from self._patiently()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        yield from self._patiently()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, None, None]:
        yield from self._patiently()

    def _patiently(self) -> Generator[None, None, None]:
        self._fixtures = True
        try:
            yield
        finally:
            self._fixtures = False


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(Interrupts(session))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    # Marked no earlier than here: a fixture that fails does not count.
    marker = item.get_closest_marker("stock_fails")
    if marker and is_stock(item.config):
        item.add_marker(pytest.mark.xfail(reason=marker.args[0], strict=True))


def is_stock(config: pytest.Config) -> bool:
    return bool(config.getoption("--handler") == "kazoo")


@pytest.fixture(scope="session")
def handler_class(pytestconfig: pytest.Config) -> type[Any]:
    """The handler under test."""
    if is_stock(pytestconfig):
        stock: type[Any] = kazoo.handlers.threading.SequentialThreadingHandler
        return stock
    import kazoo_seqthreading

    return kazoo_seqthreading.SequentialThreadingHandler


@pytest.fixture(scope="session")
def stock(pytestconfig: pytest.Config) -> bool:
    """Whether kazoo's own handler is under test."""
    return is_stock(pytestconfig)


@pytest.fixture
def handler() -> Iterator[SequentialThreadingHandler]:
    """One of our handlers, started."""
    from kazoo_seqthreading import SequentialThreadingHandler

    handler = SequentialThreadingHandler()
    handler.start()
    yield handler
    handler.stop()


@pytest.fixture
def result(handler: SequentialThreadingHandler) -> AsyncResult[Any]:
    """A result that is not ready yet."""
    return handler.async_result()


@pytest.fixture(scope="session")
def leak_timeout() -> float:
    """How long the threads of a test may take to end."""
    return 5.0


#: Threads of the process that end when they are idle: see ``_background.py``.
BACKGROUND = {f"kazoo-seqthreading-{name}" for name in ("monitor", "futures", "loop")}


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest, leak_timeout: float) -> Iterator[None]:
    """Fail where a test leaves threads or file descriptors behind."""
    threads, files = set(threading.enumerate()), descriptors()

    def leaks() -> list[str]:
        found = [
            f"thread {thread.name}"
            for thread in set(threading.enumerate()) - threads
            if not thread.daemon or thread.name.startswith("kazoo-seqthreading")
            if thread.name not in BACKGROUND
        ]
        for number, target in descriptors().items():
            if files.get(number) != target:
                found.append(f"descriptor {number} of {target}")
        if found:
            gc.collect()
        return found

    yield
    if is_stock(request.config) or request.session.shouldstop:
        return
    try:
        wait_until(lambda: not leaks(), leak_timeout)
    except AssertionError:
        pytest.fail(f"left behind: {', '.join(leaks())}\n\n{thread_stacks()}")


@pytest.fixture(scope="session")
def server_hosts() -> Iterator[str]:
    """Connect string of the server that the tests share, and never stop."""
    live = os.environ.get("ZOOKEEPER_HOSTS")
    if live:
        yield live.rstrip("/")
        return
    with ZooKeeper() as zookeeper:
        yield zookeeper.hosts


@pytest.fixture
def hosts(server_hosts: str) -> Iterator[str]:
    """Connect string with an empty chroot, which is removed after the test."""
    chroot = f"/kazoo-seqthreading-{secrets.token_hex(8)}"
    with _connected(server_hosts) as keeper:
        keeper.ensure_path(chroot)
    yield server_hosts + chroot
    with _connected(server_hosts) as keeper:
        wait_until(lambda: _removed(keeper, chroot), what=f"removal of {chroot}")


@contextmanager
def _connected(hosts: str) -> Iterator[Any]:
    client = KazooClient(hosts)
    try:
        client.start()
        yield client
    finally:
        _close(client)


def _removed(client: Any, path: str) -> bool:
    with suppress(NotEmptyError):  # a session that is yet to expire was faster
        client.delete(path, recursive=True)
        return True
    return False


@pytest.fixture
def make_client(
    request: pytest.FixtureRequest, handler_class: type[Any], hosts: str
) -> Iterator[MakeClient]:
    """Return a function that makes clients, which are closed after the test.

    It takes ``KazooClient``'s arguments. By default the client has a handler of its
    own of the class under test, and *hosts*.
    """
    close = _close_stock if is_stock(request.config) else _close_in_time

    def make(**options: Any) -> Any:
        options.setdefault("hosts", hosts)
        if "handler" not in options:
            options["handler"] = handler_class()
        client = KazooClient(**options)
        clients.callback(close, client)
        return client

    with ExitStack() as clients:
        yield make


def _close(client: Any) -> None:
    client.stop()
    client.close()


def _close_in_time(client: Any) -> None:
    """Close a client; where that hangs, the test fails and the others run."""
    in_background(_close, client).result(CLOSE_LIMIT)


def _close_stock(client: Any) -> None:
    """Close a client with kazoo's handler, which may hang for ever, here and at exit.

    It hangs where a test has shown that it does.
    """

    def close() -> None:
        with suppress(Exception):
            _close(client)

    closer = threading.Thread(target=close, daemon=True)
    closer.start()
    closer.join(2.0)
    atexit.unregister(client.handler.stop)


@pytest.fixture
def client(make_client: MakeClient) -> Any:
    """A started client with a handler of the class under test."""
    client = make_client()
    client.start()
    return client


@pytest.fixture(scope="module")
def own_server() -> Iterator[ZooKeeper]:
    """One server that a test may kill."""
    with ZooKeeper() as zookeeper:
        yield zookeeper


@pytest.fixture(scope="module")
def ensemble() -> Iterator[ZooKeeper]:
    """Three servers that a test may kill."""
    with ZooKeeper(3) as zookeeper:
        yield zookeeper


@pytest.fixture(autouse=True)
def restored(request: pytest.FixtureRequest) -> None:
    """Bring back the servers that the test before has killed."""
    for name in ("own_server", "ensemble"):
        if name in request.fixturenames:
            request.getfixturevalue(name).restore()


@pytest.fixture(scope="session")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeper]:
    """One server with a TLS port; its certificates are in ``tls_server.tls``."""
    with ZooKeeper(tls=make_tls(tmp_path_factory.mktemp("tls"))) as zookeeper:
        yield zookeeper
