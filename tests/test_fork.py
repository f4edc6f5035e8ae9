"""Forked children: what they inherit is closed, and the parent lives on."""

from __future__ import annotations

import http.client
import multiprocessing
import os
import queue
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionClosedError

from tests.background import in_background
from tests.forking import Child, call, in_child, use
from tests.support import ROOT, TIMEOUT, MakeClient, descriptors, run_python, wait_until
from tests.zookeeper import ZooKeeper

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # Python 3.12 and later warn of what is the point here.
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

hangs = pytest.mark.stock_fails("an inherited client hangs")


@pytest.fixture(autouse=True)
def patience(stock: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give children less time where kazoo's handler hangs."""
    if stock:
        monkeypatch.setattr(Child, "limit", TIMEOUT)


@pytest.fixture
def unharmed(client: Any, make_client: MakeClient) -> Iterator[Any]:
    """The parent's client; its session, nodes and watches outlive the test."""
    session = client.client_id
    states: list[str] = []
    fired: queue.Queue[Any] = queue.Queue()
    client.create("/parent", b"0", ephemeral=True)
    client.get("/parent", watch=fired.put)
    client.add_listener(states.append)
    yield client
    other = make_client()
    other.start()
    assert other.exists("/parent").owner_session_id == session[0]
    assert fired.empty()
    other.set("/parent", b"1")
    assert fired.get(timeout=TIMEOUT).path == "/parent"
    assert client.client_id == session
    assert client.get("/parent")[0] == b"1"
    assert states == []
    assert fired.empty()


# -- the inherited client ------------------------------------------------------------


@hangs
def test_calls_fail_at_once(unharmed: Any) -> None:
    client = unharmed
    pending = client.handler.async_result()
    event = client.handler.event_object()
    calls: dict[str, Callable[[], Any]] = {
        "exists": lambda: client.exists("/"),
        "get": lambda: client.get("/parent"),
        "set": lambda: client.set("/parent", b"child"),
        "delete": lambda: client.delete("/parent"),
        "get_children": lambda: client.get_children("/"),
        "create": lambda: client.create("/child"),
        "create makepath": lambda: client.create("/a/b/c", makepath=True),
        "ensure_path": lambda: client.ensure_path("/a/b"),
        "sync": lambda: client.sync("/"),
        "transaction": lambda: client.transaction().commit(),
        "retry": lambda: client.retry(client.get, "/parent"),
        "lock": lambda: client.Lock("/lock").acquire(),
        "counter": lambda: client.Counter("/counter").value,
        "async": lambda: client.get_async("/parent").get(timeout=60),
        "wait": lambda: client.get_async("/parent").wait() and client.exists("/"),
        "inherited get": pending.get,
        "inherited wait": lambda: pending.wait(60),
        "inherited event": event.wait,
        "add_auth": lambda: client.add_auth("digest", "user:password"),
    }
    outcomes = {name: in_child(call, one) for name, one in calls.items()}

    assert outcomes == dict.fromkeys(calls, ("ConnectionClosedError", True))
    assert client.get_children("/") == ["parent"]


@hangs
def test_many_calls_in_one_child(unharmed: Any) -> None:
    def request() -> list[Any]:
        results = [unharmed.exists_async("/") for _ in range(1000)]
        return [call(result.get) for result in results]

    assert in_child(request) == [("ConnectionClosedError", True)] * 1000


def test_events_of_the_child(unharmed: Any) -> None:
    """They, and those that were set, are what they are."""
    handler = unharmed.handler
    inherited = handler.event_object()
    inherited.set()

    def wait() -> Any:
        event = handler.event_object()
        threading.Timer(0.05, event.set).start()
        return inherited.wait(), event.wait(TIMEOUT), handler.event_object().wait(0.05)

    assert in_child(wait) == (True, True, False)


@hangs
def test_error_says_what_to_do(unharmed: Any) -> None:
    with pytest.raises(ConnectionClosedError, match="forked process; start"):
        in_child(unharmed.exists, "/")


@hangs
def test_inherited_client_is_closed(unharmed: Any) -> None:
    def look() -> Any:
        return unharmed.connected, unharmed.client_id, unharmed.handler.running

    assert in_child(look) == (False, None, False)


@hangs
@pytest.mark.parametrize("use_first", [False, True], ids=["untouched", "used"])
@pytest.mark.parametrize("methods", [["stop"], ["stop", "close"], ["close"]])
def test_stop_and_close(unharmed: Any, methods: list[str], use_first: bool) -> None:
    def run() -> list[Any]:
        if use_first:
            call(unharmed.exists, "/")
        outcomes = [call(getattr(unharmed, name)) for name in methods]
        return [*outcomes, call(unharmed.exists, "/")]

    assert in_child(run) == [
        *(("returned", True) for _ in methods),
        ("ConnectionClosedError", True),
    ]


@hangs
@pytest.mark.parametrize("before", [[], ["stop"], ["stop", "close"], ["exists"]])
def test_start(unharmed: Any, before: list[str]) -> None:
    session = unharmed.client_id

    def run() -> Any:
        for name in before:
            call(getattr(unharmed, name), *(["/"] if name == "exists" else []))
        unharmed.start(2 * TIMEOUT)
        other = unharmed.client_id[0] != session[0]
        seen = unharmed.get("/parent")[0]
        return other, seen, use(unharmed)

    assert in_child(run) == (True, b"0", b"value")


@hangs
def test_restart(unharmed: Any) -> None:
    def run() -> Any:
        outcome, _ = call(unharmed.restart)
        return outcome, unharmed.exists("/") is not None

    assert in_child(run) == ("returned", True)


@hangs
def test_watches_and_callbacks_of_the_parent_do_not_run(unharmed: Any) -> None:
    ran: list[int] = []
    may_return = threading.Event()

    def run(argument: Any) -> None:
        may_return.wait(TIMEOUT)
        ran.append(os.getpid())

    unharmed.exists("/node", watch=run)
    unharmed.create("/node")
    unharmed.exists_async("/").rawlink(run)
    unharmed.exists_async("/").rawlink(run)

    def restart() -> list[int]:
        may_return.set()
        call(unharmed.exists, "/")
        unharmed.start()
        done = threading.Event()
        unharmed.exists_async("/").rawlink(lambda result: done.set())
        assert done.wait(TIMEOUT)
        unharmed.stop()
        return ran

    assert in_child(restart) == []
    may_return.set()
    wait_until(lambda: len(ran) == 3)

    assert ran == [os.getpid()] * 3


# -- what belongs to the parent ------------------------------------------------------


def connections_to(port: int) -> list[int]:
    """Return this process' descriptors of connections to *port*."""
    found = []
    for number in descriptors():
        if stat.S_ISSOCK(os.fstat(number).st_mode):
            with suppress(OSError), socket.socket(fileno=os.dup(number)) as copy:
                if copy.getpeername()[1:2] == (port,):
                    found.append(number)
    return found


@pytest.mark.stock_fails("the child keeps the parent's connection open")
def test_descriptors(unharmed: Any) -> None:
    port = unharmed._connection._socket.getpeername()[1]
    assert len(connections_to(port)) == 1
    assert in_child(connections_to, port) == []


@hangs
@pytest.mark.parametrize("at_exit", ["os._exit", "sys.exit"])
def test_exit_of_the_child(hosts: str, handler_class: Any, at_exit: str) -> None:
    """The child's interpreter ends in the usual way, the parent's session does not."""
    done = run_python(EXIT, hosts, handler_class.__module__, at_exit)
    assert done.returncode == 0
    # The child says why, if it lives long enough.
    assert re.fullmatch(
        r"(Connection .* this process is a forked child.*\n)?", done.stderr
    )
    assert done.stdout.split() == ["ConnectionClosedError", "0", "True", "[]"]


EXIT = """
import os, sys, importlib, warnings
from kazoo.client import KazooClient

warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning)
hosts, module, at_exit = sys.argv[1:]
handler = importlib.import_module(module).SequentialThreadingHandler()
client = KazooClient(hosts, handler=handler)
client.start()
client.create("/node", ephemeral=True)
session, states = client.client_id, []
client.add_listener(states.append)
pid = os.fork()
if not pid:
    try:
        client.exists("/")
    except Exception as error:
        print(type(error).__name__, flush=True)
    if at_exit == "os._exit":
        os._exit(0)
    sys.exit()
print(os.waitpid(pid, 0)[1], end=" ")
owner = client.exists("/node").owner_session_id
print(client.client_id == session and owner == session[0], states)
client.stop()
client.close()
"""


@hangs
def test_child_outlives_the_parents_client(make_client: MakeClient) -> None:
    client = make_client()
    client.start()
    reader, writer = os.pipe()
    try:

        def outlive() -> Any:
            os.close(writer)
            os.read(reader, 1)  # until the parent has closed its client
            return call(client.exists, "/"), use(client)

        child = Child(outlive)
        client.stop()
        client.close()
    finally:
        os.close(writer)
    outcome = child.result()
    os.close(reader)

    assert outcome == (("ConnectionClosedError", True), b"value")


@hangs
def test_locks_held_at_the_fork(unharmed: Any) -> None:
    handler = unharmed.handler
    locks = [
        handler.lock_object(),
        handler.rlock_object(),
        handler.event_object()._cond,
    ]
    held, may_release = threading.Event(), threading.Event()

    def hold() -> None:
        with locks[0], locks[1], locks[2]:
            held.set()
            may_release.wait(Child.limit + TIMEOUT)

    holder = in_background(hold)
    assert held.wait(TIMEOUT)
    try:
        acquire = [lock.acquire for lock in locks[:2]]
        assert in_child(lambda: [one(timeout=5) for one in acquire]) == [True, True]
        assert not any(one(blocking=False) for one in acquire)  # the parent's are held
    finally:
        may_release.set()
    holder.result(TIMEOUT)


def test_lock_held_by_the_forking_thread_stays_held(unharmed: Any) -> None:
    lock = unharmed.handler.lock_object()
    with lock:
        assert in_child(lock.acquire, False) is False


@hangs
def test_fork_under_load(unharmed: Any, handler_class: Any, hosts: str) -> None:
    """Whatever the other threads are in the middle of, a child does not hang."""
    stop = threading.Event()
    ran = threading.Semaphore(0)

    def work() -> None:
        while not stop.is_set():
            results = [unharmed.exists_async("/") for _ in range(50)]
            for result in results:
                result.rawlink(lambda result: ran.release())
            unharmed.exists("/")

    workers = [in_background(work) for _ in range(3)]
    try:
        for number in range(20):
            assert ran.acquire(timeout=TIMEOUT)
            child = Child(lambda: call(unharmed.exists, "/"))
            assert child.result() == ("ConnectionClosedError", True)
            if number % 5 == 0:
                assert in_child(use, unharmed) == b"value"
                new = KazooClient(hosts, handler=handler_class())
                assert in_child(use, new) == b"value"
    finally:
        stop.set()
        for worker in workers:
            worker.result(TIMEOUT)


# -- new clients ---------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_new_client(unharmed: Any, handler_class: Any, hosts: str, when: str) -> None:
    def make() -> Any:
        return KazooClient(hosts, handler=handler_class())

    before = make()
    child = Child(lambda: use(before if when == "before" else make()))
    assert child.result() == b"value"
    before.close()


@hangs
def test_two_inherited_clients(unharmed: Any, make_client: MakeClient) -> None:
    other = make_client()
    other.start()

    def run() -> Any:
        return use(other), call(unharmed.exists, "/"), use(unharmed)

    assert in_child(run) == (b"value", ("ConnectionClosedError", True), b"value")
    assert other.exists("/") is not None


@hangs
def test_two_clients_of_one_handler(unharmed: Any, make_client: MakeClient) -> None:
    other = make_client(handler=unharmed.handler)
    other.start()

    def run() -> Any:
        return call(other.exists, "/"), call(unharmed.exists, "/"), use(unharmed)

    closed = ("ConnectionClosedError", True)

    assert in_child(run) == (closed, closed, b"value")
    assert other.exists("/") is not None


@hangs
def test_grandchild(unharmed: Any) -> None:
    def child() -> Any:
        unharmed.start()
        session = unharmed.client_id
        outcomes = in_child(lambda: (call(unharmed.exists, "/"), use(unharmed)))
        alive = unharmed.exists("/") is not None and unharmed.client_id == session
        unharmed.stop()
        unharmed.close()
        return outcomes, alive

    assert in_child(child) == ((("ConnectionClosedError", True), b"value"), True)


# -- other threads that fork ---------------------------------------------------------


@hangs
@pytest.mark.parametrize("kind", ["completion", "watch", "spawn"])
def test_fork_in_callback(unharmed: Any, kind: str) -> None:
    outcomes: queue.Queue[Any] = queue.Queue()

    def child() -> Any:
        return call(unharmed.exists, "/"), use(unharmed)

    def callback(*args: Any) -> None:
        try:
            outcomes.put(in_child(child))
        except BaseException as error:
            outcomes.put(error)

    if kind == "completion":
        unharmed.exists_async("/").rawlink(callback)
    elif kind == "watch":
        unharmed.exists("/node", watch=callback)
        unharmed.create("/node")
    else:
        unharmed.handler.spawn(callback)
    outcome = outcomes.get(timeout=Child.limit + TIMEOUT)

    assert outcome == (("ConnectionClosedError", True), b"value")


@hangs
def test_fork_in_listener(make_client: MakeClient) -> None:
    client = make_client()
    outcomes: queue.Queue[Any] = queue.Queue()

    def listener(state: str) -> bool:
        client.remove_listener(listener)  # it must not run in the child
        try:
            outcomes.put(in_child(lambda: (call(client.exists, "/"), use(client))))
        except BaseException as error:
            outcomes.put(error)
        return True

    client.add_listener(listener)
    client.start_async()
    outcome = outcomes.get(timeout=Child.limit + TIMEOUT)
    assert outcome == (("ConnectionClosedError", True), b"value")
    wait_until(lambda: client.connected, 3 * TIMEOUT)

    assert client.exists("/") is not None


@hangs
def test_fork_while_suspended(make_client: MakeClient, own_server: ZooKeeper) -> None:
    retry = {"max_tries": -1, "delay": 0.1, "max_delay": 0.5}
    client = make_client(hosts=own_server.hosts, timeout=3.0, connection_retry=retry)
    client.start()
    own_server.nodes[0].kill()
    wait_until(lambda: client.state == "SUSPENDED")
    waiting = in_background(client.exists, "/")
    wait_until(lambda: client._queue)
    child = Child(lambda: [call(client.exists, "/"), call(client.stop)])
    assert child.result() == [("ConnectionClosedError", True), ("returned", True)]
    own_server.restore()
    waiting.exception(3 * TIMEOUT)  # answered, or lost with the connection
    wait_until(lambda: client.connected, 3 * TIMEOUT)

    assert client.exists("/") is not None


# -- as servers do it ----------------------------------------------------------------


def _pool_task(client: Any) -> Any:
    return call(client.exists, "/"), use(client)


_inherited: Any = None  # for the processes of a pool


def _pool_call(number: int) -> Any:
    return call(_inherited.exists, "/"), use(_inherited)


@hangs
def test_multiprocessing(unharmed: Any) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=lambda: answers.put(_pool_task(unharmed)))
    process.start()
    try:
        process.join(Child.limit)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
        process.close()
    assert answers.get() == (("ConnectionClosedError", True), b"value")
    answers.close()


@hangs
def test_multiprocessing_pool(unharmed: Any) -> None:
    global _inherited
    _inherited = unharmed
    pool = multiprocessing.get_context("fork").Pool(2)
    try:
        answers = pool.map_async(_pool_call, [1, 2], chunksize=1).get(Child.limit)
        pool.close()
    finally:
        pool.terminate()
        pool.join()
        _inherited = None

    assert [value for _, value in answers] == [b"value"] * 2


@hangs
def test_pre_fork_server(unharmed: Any, make_client: MakeClient) -> None:
    """Workers that start the inherited client and share work through ZooKeeper."""

    def serve() -> None:
        unharmed.start(2 * TIMEOUT)
        for _ in range(5):
            with unharmed.Lock("/lock"):
                value = int(unharmed.get("/count")[0])
                unharmed.set("/count", b"%d" % (value + 1))
        unharmed.stop()

    unharmed.create("/count", b"0")
    workers = [Child(serve) for _ in range(3)]
    try:
        for worker in workers:
            worker.result()
    finally:
        for worker in workers:
            worker.kill()
    unharmed.sync("/count")

    assert unharmed.get("/count")[0] == b"15"


APPLICATION = """
import importlib, os, sys, time
from kazoo.client import KazooClient

handler = importlib.import_module(os.environ["HANDLER"]).SequentialThreadingHandler()
client = KazooClient(os.environ["HOSTS"], handler=handler)
client.start()
client.create("/master", b"%d" % os.getpid(), ephemeral=True)

def inherited():
    began = time.monotonic()
    try:
        return client.get("/master")[0]
    except Exception as error:
        return f"{type(error).__name__} {time.monotonic() - began < 4.5}".encode()

def started():
    client.start()
    client.create(f"/worker-{os.getpid()}", ephemeral=True)
    return client.get("/master")[0]

def application(environ, start_response):
    body = {"/inherited": inherited, "/started": started}[environ["PATH_INFO"]]()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=Child.limit)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@hangs
def test_gunicorn_with_preload_app(
    client: Any, hosts: str, handler_class: Any, tmp_path: Path
) -> None:
    tmp_path.joinpath("application.py").write_text(APPLICATION)
    address, log = tmp_path / "socket", tmp_path / "log"
    command = [sys.executable, "-m", "gunicorn", "application", "--preload"]
    command += ["--bind", f"unix:{address}", "--chdir", str(tmp_path), "--workers=1"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {"HOSTS": hosts, "HANDLER": handler_class.__module__, "PYTHONPATH": path}

    def ask(page: str) -> str:
        connection = UnixConnection(address)
        try:
            connection.request("GET", page)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def answers() -> str | None:
        assert master.poll() is None, log.read_text()
        with suppress(OSError):  # it is about to listen
            return ask("/inherited")
        return None

    with log.open("w") as output:
        master = subprocess.Popen(
            command,
            env={**os.environ, **env},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        assert wait_until(answers, Child.limit) == "ConnectionClosedError True"
        session = client.exists("/master").owner_session_id
        assert ask("/started") == str(master.pid)
        assert ask("/inherited") == str(master.pid)  # it is started here now
        (worker,) = set(client.get_children("/")) - {"master"}
        os.kill(int(worker.partition("-")[2]), signal.SIGKILL)
        # Another worker takes its place.
        assert wait_until(answers, Child.limit) == "ConnectionClosedError True"
        assert client.exists("/master").owner_session_id == session
    finally:
        master.terminate()
        try:
            status = master.wait(Child.limit)
        finally:
            with suppress(ProcessLookupError):  # workers that hang, too
                os.killpg(master.pid, signal.SIGKILL)
            master.wait()

    assert status == 0, log.read_text()
    assert "Traceback" not in log.read_text()
