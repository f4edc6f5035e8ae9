"""See it work: ``python tests/demo.py``, or ``tox -e demo``.

A client with the handler on a real ZooKeeper, step by step. What is shown is checked:
the exit status is 1 where anything is not as it should be.

By default it starts a private server, and kills it on the way. ``--hosts``, or
``ZOOKEEPER_HOSTS`` in the environment, runs it on an ensemble of your own: there it
kills nothing, and removes what it has made, also under Ctrl-C and ``SIGTERM``.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    # Where there is nothing to tidy up, a Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import asyncio
import contextlib
import faulthandler
import logging
import os
import platform
import queue
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    # Last: where the package is installed, as tox has it, that one is shown.
    sys.path[:] = [*sys.path[1:], str(Path(__file__).resolve().parent.parent)]

import kazoo.client
from kazoo.exceptions import KazooException, NoNodeError
from kazoo.version import __version__ as kazoo_version

import kazoo_seqthreading.__main__ as comparison
from kazoo_seqthreading import SequentialThreadingHandler, __version__
from kazoo_seqthreading.__main__ import SIGNALS, Signals, say
from tests.background import in_background
from tests.zookeeper import Node, ZooKeeper, ZooKeeperError

#: The longest that anything may take, in seconds; and the whole, the comparison too.
TIMEOUT = 20.0
CONNECT_LIMIT = 10.0
LIMIT_OF_ALL = 120.0

READS = 1000

make_client: Callable[..., Any] = kazoo.client.KazooClient


class Unexpected(Exception):
    """Something is not as it should be."""


#: What tells that something does not work.
EXPECTED = (Unexpected, ZooKeeperError, KazooException, OSError, queue.Empty)


def expect(what: str, found: object, expected: object) -> None:
    """Stop the demo where *found* is not what it should be."""
    if found != expected:
        raise Unexpected(f"{what}: expected {expected!r}, found {found!r}")


class Screen:
    """Prints steps: a title each, and what happened."""

    def __init__(self) -> None:
        colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._bold, self._green, self._red, self._dim, self._plain = (
            [f"\x1b[{code}m" for code in (1, 32, 31, 2, 0)] if colours else [""] * 5
        )
        try:
            "✓✗".encode(sys.stdout.encoding or "ascii")
        except UnicodeEncodeError:
            self._good, self._bad = "ok", "FAILED"
        else:
            self._good, self._bad = "✓", "✗"
        self._began = 0.0

    def head(self, *lines: str) -> None:
        """Print what this is."""
        say(f"{self._bold}{lines[0]}{self._plain}", sys.stdout)
        for line in lines[1:]:
            say(f"{self._dim}{line}{self._plain}", sys.stdout)

    def begin(self, title: str) -> None:
        """Begin a step."""
        say(f"\n{self._bold}{title}{self._plain}", sys.stdout)
        self._began = time.monotonic()

    def tell(self, text: str) -> None:
        """Print what has just happened, and when in this step."""
        took = f"{(time.monotonic() - self._began) * 1e3:,.0f} ms"
        mark = f"{self._green}{self._good}{self._plain}"
        say(f"  {mark} {text:<64}{self._dim}{took:>10}{self._plain}", sys.stdout)

    def fail(self, text: str) -> None:
        """Print what is not as it should be."""
        say(f"  {self._red}{self._bad} {text}{self._plain}", sys.stdout)


class Demo:
    """The steps, in this order.

    :param hosts: connect string with a chroot of the demo's own
    :param server: one that may be killed, if there is one
    """

    def __init__(
        self, hosts: str, server: Node | None, screen: Screen, stack: ExitStack
    ) -> None:
        self._hosts = hosts
        self._server = server
        self._stack = stack
        self.tell = screen.tell
        self.client: Any = None
        self.other: Any = None
        self.states: queue.Queue[str] = queue.Queue()
        self.events: queue.Queue[tuple[str, Any]] = queue.Queue()

    def steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield each step and its title."""
        yield "Connect: one word is different", self.connect
        yield "Create, read, write", self.calls
        yield "Watches: in order, one at a time", self.watches
        yield "Chained calls: each made by the callback of the one before", self.chain
        yield "asyncio: await the results", self.awaited
        yield "A lock, taken by four threads of two clients", self.lock
        yield "An election between two clients", self.election
        if self._server is not None:
            yield "The server is killed, and comes back", self.kill

    def open(self) -> Any:
        """Return a client with the handler, started; it is closed in the end."""
        hosts = self._hosts
        if self._server is not None:
            # While it starts, ZooKeeper may forget a connection. Named twice, two
            # attempts to connect fit into a session.
            hosts = f"{self._server.address},{hosts}"
        client = make_client(hosts, handler=SequentialThreadingHandler())
        self._stack.callback(client.close)
        self._stack.callback(client.stop)
        client.start(TIMEOUT)
        return client

    def connect(self) -> None:
        self.client = self.open()
        self.tell("KazooClient(hosts, handler=SequentialThreadingHandler()).start()")
        self.client.add_listener(self.states.put)
        session, _ = self.client.client_id
        self.tell(f"connected: session {session:#x}")

    def calls(self) -> None:
        client = self.client
        expect(
            "created", client.create("/app/config", b"1", makepath=True), "/app/config"
        )
        self.tell("create('/app/config', b'1', makepath=True)")
        data, stat = client.get("/app/config")
        expect("read", (data, stat.version), (b"1", 0))
        self.tell(f"get('/app/config') -> {data!r}, version {stat.version}")
        version = client.set("/app/config", b"2").version
        expect("version", version, 1)
        self.tell(f"set('/app/config', b'2') -> version {version}")
        try:
            client.get("/app/nothing")
        except NoNodeError:
            self.tell("get('/app/nothing') -> NoNodeError")
        else:
            raise Unexpected("a node was read that does not exist")

    def watches(self) -> None:
        client, events = self.client, self.events
        running = threading.Lock()

        def note(*event: Any) -> None:
            if not running.acquire(blocking=False):
                events.put(("overlap", event))
            time.sleep(0.001)  # time enough for another one to overlap
            running.release()
            events.put((event[0], event[1]))

        client.create("/jobs")
        client.DataWatch("/jobs", lambda data, stat: note("data", data))
        client.ChildrenWatch("/jobs", lambda names: note("children", sorted(names)))
        first = [events.get(timeout=TIMEOUT) for _ in range(2)]
        expect("first events", first, [("data", b""), ("children", [])])
        self.tell("DataWatch and ChildrenWatch are set on /jobs")
        wanted: list[tuple[str, Any]] = []
        for number in range(1, 4):
            client.create(f"/jobs/{number}")
            wanted.append(("children", [str(n) for n in range(1, number + 1)]))
            expect("event", events.get(timeout=TIMEOUT), wanted[-1])
            client.set("/jobs", b"%d" % number)
            wanted.append(("data", b"%d" % number))
            expect("event", events.get(timeout=TIMEOUT), wanted[-1])
        self.tell(f"{len(wanted)} changes, {len(wanted)} events, in their order")

    def chain(self) -> None:
        client = self.client
        done: queue.Queue[Any] = queue.Queue()

        def created(result: Any) -> None:
            client.set_async(result.get(), b"chained").rawlink(written)

        def written(result: Any) -> None:
            client.get_async("/chain").rawlink(read)

        def read(result: Any) -> None:
            data, stat = result.get()
            done.put((data, stat.version))
            # Blocking calls are fine here, too: kazoo's own handler hangs in this one.
            done.put(client.create("/chain/blocking/create", makepath=True))

        client.create_async("/chain").rawlink(created)
        expect("end of the chain", done.get(timeout=TIMEOUT), (b"chained", 1))
        self.tell("create_async -> set_async -> get_async -> b'chained'")
        expect("created", done.get(timeout=TIMEOUT), "/chain/blocking/create")
        self.tell("create(..., makepath=True) in a callback does not hang")
        order: list[int] = []
        for number in range(READS):
            result = client.get_async("/chain")
            result.rawlink(lambda result, number=number: order.append(number))
        result.rawlink(lambda result: done.put(None))
        done.get(timeout=TIMEOUT)
        expect("order of the callbacks", order, list(range(READS)))
        self.tell(f"{READS:,} reads at once: every callback ran once, in order")

    def awaited(self) -> None:
        client = self.client

        async def main() -> None:
            path = await client.create_async("/awaited", b"value")
            data, _ = await client.get_async(path)
            expect("awaited", data, b"value")
            self.tell(f"await client.get_async({path!r}) -> {data!r}")
            answers = await asyncio.gather(
                *[client.get_async(path) for _ in range(READS)]
            )
            expect("answers", {data for data, stat in answers}, {b"value"})
            self.tell(f"asyncio.gather() of {READS:,} reads")

        asyncio.run(asyncio.wait_for(main(), TIMEOUT))

    def lock(self) -> None:
        self.other = self.open()
        self.client.create("/counter", b"0")
        failures: queue.Queue[BaseException] = queue.Queue()

        def count(client: Any) -> None:
            try:
                for _ in range(5):
                    with client.Lock("/lock", threading.current_thread().name):
                        data, _ = client.get("/counter")
                        client.set("/counter", b"%d" % (int(data) + 1))
            except BaseException as error:
                failures.put(error)

        threads = [
            threading.Thread(target=count, args=(client,), daemon=True)
            for client in (self.client, self.other) * 2
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
            expect("a thread still waits for the lock", thread.is_alive(), False)
        if not failures.empty():
            raise failures.get()
        data, _ = self.client.get("/counter")
        expect("counter", data, b"20")
        self.tell("4 times 5 increments of a node under Lock('/lock') -> 20")

    def election(self) -> None:
        leaders: queue.Queue[str] = queue.Queue()
        resign = {name: threading.Event() for name in ("anna", "bert")}

        def lead(name: str) -> None:
            leaders.put(name)
            resign[name].wait(TIMEOUT)

        def run(client: Any, name: str) -> None:
            with contextlib.suppress(KazooException):  # whoever does not lead is seen
                client.Election("/election", name).run(lead, name)

        runs = {}
        for client, name in ((self.client, "anna"), (self.other, "bert")):
            runs[name] = client.handler.spawn(run, client, name)
            if name == "anna":
                expect("the first leader", leaders.get(timeout=TIMEOUT), "anna")
                self.tell("anna leads")
        candidates = self.client.Election("/election")
        deadline = time.monotonic() + TIMEOUT
        while candidates.contenders() != ["anna", "bert"]:
            expect("bert stands in time", time.monotonic() < deadline, True)
            time.sleep(0.01)
        expect("leaders besides anna", leaders.qsize(), 0)
        self.tell("bert waits")
        resign["anna"].set()
        expect("the next leader", leaders.get(timeout=TIMEOUT), "bert")
        self.tell("anna resigns: bert leads")
        resign["bert"].set()
        for name, spawned in runs.items():
            spawned.join(TIMEOUT)
            expect(f"{name} is still in the election", spawned.is_alive(), False)

    def kill(self) -> None:
        server, client = self._server, self.client
        assert server is not None
        client.create("/alive", b"yes", ephemeral=True)
        session = client.client_id
        while not self.states.empty():
            self.states.get()
        server.kill()
        expect("state", self.states.get(timeout=TIMEOUT), "SUSPENDED")
        self.tell(f"kill -9 {server.address}: the client is SUSPENDED")
        waiting = [client.get_async("/alive") for _ in range(100)]
        self.tell("100 reads meanwhile: queued")
        server.start(TIMEOUT)
        expect("state", self.states.get(timeout=TIMEOUT), "CONNECTED")
        self.tell("the server is back: the client is CONNECTED")
        lost = client.handler.stats().disconnects[0]
        expect(f"cause {lost.cause}", lost.cause in ("closed", "reset"), True)
        _, _, why = str(lost).partition(": ")
        self.tell(f"why it was lost, as it logs: {why.partition('. ')[0]}")
        answers = {result.get(timeout=TIMEOUT)[0] for result in waiting}
        expect("answers", answers, {b"yes"})
        self.tell("the 100 reads are answered")
        expect("session", client.client_id, session)
        self.tell("it is the same session, its ephemeral node is there")
        client.set("/jobs", b"after")
        expect("event", self.events.get(timeout=TIMEOUT), ("data", b"after"))
        self.tell("DataWatch('/jobs') of step 3 sees the next change")


def run(hosts: str, server: Node | None, screen: Screen) -> None:
    """Run all steps under a chroot of their own, which is removed.

    :raises Unexpected: if anything is not as it should be
    """
    chroot = f"/kazoo-seqthreading-demo-{secrets.token_hex(4)}"
    with ExitStack() as stack:
        keeper = make_client(hosts, handler=SequentialThreadingHandler())
        stack.callback(keeper.close)
        stack.callback(keeper.stop)
        try:
            keeper.start(CONNECT_LIMIT)
        except TimeoutError:
            raise Unexpected(f"no server answers on {hosts}") from None
        if server is None:
            stack.callback(keeper.retry, keeper.delete, chroot, recursive=True)
        keeper.ensure_path(chroot)
        demo = Demo(hosts.rstrip("/") + chroot, server, screen, stack)
        try:
            for number, (title, step) in enumerate(demo.steps(), 1):
                screen.begin(f"{number}. {title}")
                # A Ctrl-C in the middle of a request might be lost in kazoo.
                in_background(step).result()
        except BaseException:
            logging.disable()  # what fails with it is no news
            raise


def compare(hosts: str, seconds: float, screen: Screen) -> None:
    """Run the comparison for a short time.

    :raises Unexpected: if it fails
    """
    screen.begin("kazoo's handler and ours: python -m kazoo_seqthreading --hosts ...")
    status = comparison.main(["--hosts", hosts, "--seconds", str(seconds)])
    if status > 128:  # a signal, which it has told of
        raise SystemExit(status)
    expect("exit status of the comparison", status, 0)


@contextlib.contextmanager
def ensemble(hosts: str | None) -> Iterator[tuple[str, Node | None, str]]:
    """Provide *hosts*, or a private server; with what to say of it.

    :raises ZooKeeperError: if no server can be started
    """
    if hosts:
        yield hosts, None, f"on your own ensemble, {hosts}, where nothing is killed"
        return
    began = time.monotonic()
    with ZooKeeper() as zookeeper:
        took = time.monotonic() - began
        about = f"on a private server, {zookeeper.hosts}, started in {took:.1f} s"
        yield zookeeper.hosts, zookeeper.nodes[0], about


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(description="See kazoo_seqthreading work.")
    parser.add_argument(
        "--hosts",
        default=os.environ.get("ZOOKEEPER_HOSTS"),
        help="an ensemble of your own, HOST:PORT,...[/CHROOT]; default: "
        "ZOOKEEPER_HOSTS, or a private server",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=4.0,
        help="for the comparison at the end (default: %(default)g)",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR)  # that a connection is lost, is told
    faulthandler.dump_traceback_later(LIMIT_OF_ALL + options.seconds, exit=True)
    screen, signals = Screen(), Signals()
    try:
        with signals, ensemble(options.hosts) as (hosts, server, about):
            screen.head(
                f"kazoo_seqthreading {__version__} with kazoo {kazoo_version}, "
                f"{platform.python_implementation()} {platform.python_version()}",
                about,
            )
            run(hosts, server, screen)
            compare(hosts, options.seconds, screen)
    except BaseException as error:
        if signals.seen:
            screen.fail(SIGNALS[signals.seen])
            return 128 + signals.seen
        if not isinstance(error, EXPECTED):
            raise
        screen.fail(f"{type(error).__name__}: {error}")
        return 1
    finally:
        faulthandler.cancel_dump_traceback_later()
    return 0


if __name__ == "__main__":
    sys.exit(main())
