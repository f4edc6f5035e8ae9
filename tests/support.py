"""Helpers that the tests share."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import kazoo.client
import pytest

from tests import pollers
from tests.zookeeper import TLS

T = TypeVar("T")

#: What the fixture ``make_client`` is: it takes the arguments of ``KazooClient``.
MakeClient = Callable[..., Any]

#: kazoo's client. The class has no types, so that strict code may not call it.
KazooClient: MakeClient = kazoo.client.KazooClient

Address = tuple[str, int]

ROOT = Path(__file__).parent.parent

#: How long anything may take, in seconds; far more than it needs.
TIMEOUT = 20.0
#: The same for a program that takes some seconds by itself.
PROGRAM_TIMEOUT = 60.0

#: What is not an ``Exception``, and what is.
RAISED = [
    "SystemExit",
    "KeyboardInterrupt",
    "CancelledError",
    "GeneratorExit",
    "OSError",
]

#: For tests that see an object freed as soon as nobody needs it.
refcounted = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="it needs reference counting"
)


def wait_until(
    predicate: Callable[[], T], timeout: float = TIMEOUT, what: str = ""
) -> T:
    """Call *predicate* until its result is true; return that result.

    Only for what sends no event: other processes, threads that end, counters.

    :raises AssertionError: if it is not true after *timeout* seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        expired = time.monotonic() > deadline
        result = predicate()
        if result:
            return result
        if expired:
            raise AssertionError(f"not within {timeout} s: {what or predicate}")
        time.sleep(0.01)


def run_python(
    source: str,
    *arguments: str,
    timeout: float = 30.0,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run *source* in a Python of its own, which can import package and tests.

    Warnings are errors there, as they are in the tests.
    """
    if pollers.VARIABLE in os.environ:
        poller = os.environ[pollers.VARIABLE]
        source = f"from tests import pollers; pollers.use({poller!r})\n{source}"
    return subprocess.run(
        _python("-c", source, *arguments),
        env=_environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_program(
    name: str, *arguments: str, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a file of ``tests/programs``, as :func:`run_python` runs a text.

    :raises AssertionError: if it does not end in time; it tells where it stands
    """
    with start_program(name, *arguments) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler writes the stacks
            output, errors = process.communicate(timeout=timeout)
            raise AssertionError(f"not within {timeout} s: {output}{errors}") from None
        finally:
            process.kill()
    return subprocess.CompletedProcess(name, process.returncode, output, errors)


def start_program(name: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a file of ``tests/programs``, with pipes to its standard streams."""
    return subprocess.Popen(
        _python("-X", "faulthandler", "-m", f"tests.programs.{name}", *arguments),
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", *arguments]


def _environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **(env or {})}


def make_dead(stack: ExitStack, host: str, port: int = 0) -> Address:
    """Return an address that answers nothing, not even an attempt to connect."""
    server = stack.enter_context(socket.create_server((host, port), backlog=0))
    address: Address = server.getsockname()
    for _ in range(10):  # what waits to be accepted fills the queue
        client = stack.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex(address)
    with socket.socket() as probe:
        probe.settimeout(0.2)
        with pytest.raises(socket.timeout):
            probe.connect(address)
    return address


def make_tls(folder: Path, client_auth: bool = False) -> TLS:
    """Return certificates, made in *folder*; skip the test where they cannot be made.

    What makes them needs a compiled package, which some Pythons lack.
    """
    pytest.importorskip("trustme")
    return TLS.create(folder, client_auth)


def slow_import(module: str, folder: Path) -> dict[str, str]:
    """Return the environment of a program that is to stop as it imports *module*.

    It leaves a file "importing" in *folder* when it does.
    """
    told = str(folder / "importing")
    folder.joinpath(f"{module}.py").write_text(
        f"import pathlib, time; pathlib.Path({told!r}).touch(); time.sleep(60)"
    )
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def thread_stacks() -> str:
    """Return what every thread is doing, for the message of a failure."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"{names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )


def descriptors() -> dict[int, str]:
    """Return the open file descriptors, each with what it is open on; none on Windows.

    There nothing tells which ones are open.
    """
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    result: dict[int, str] = {}
    if not os.path.isdir(folder):
        return result
    for name in os.listdir(folder):
        try:
            os.fstat(int(name))
        except OSError:  # the one that listed the folder
            continue
        try:
            result[int(name)] = os.readlink(f"{folder}/{name}")
        except OSError:
            result[int(name)] = "?"
    return result


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # no /proc, or ended just now
        return not os.path.isdir("/proc/self")
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


# -- threads -------------------------------------------------------------------------


class Gate:
    """A callback that stands still until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.passed = threading.Event()

    def __call__(self, *args: Any) -> None:
        self.entered.set()
        if not self.opened.wait(TIMEOUT):
            raise AssertionError("the gate was never opened")
        self.passed.set()

    def wait_entered(self) -> None:
        assert self.entered.wait(TIMEOUT), f"nobody came\n{thread_stacks()}"

    def open(self) -> None:
        self.opened.set()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.open()


def in_thread(function: Callable[[], Any], limit: float = TIMEOUT) -> Any:
    """Run *function* in a daemon thread; return its result, or raise its exception.

    :raises AssertionError: if it has not returned in time
    """
    return together(function, limit=limit)[0]


def together(*functions: Callable[[], Any], limit: float = TIMEOUT) -> list[Any]:
    """Run *functions* at once, each in a daemon thread; return their results.

    :raises AssertionError: if one has not returned in time
    """
    barrier = threading.Barrier(len(functions))
    results: list[Any] = [None] * len(functions)
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            barrier.wait(limit)
            results[index] = functions[index]()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(index,), daemon=True)
        for index in range(len(functions))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(limit)
        assert not thread.is_alive(), f"not within {limit} s\n{thread_stacks()}"
    if errors:
        raise errors[0]
    return results


@contextmanager
def frequent_switches() -> Iterator[None]:
    """Have threads take turns as often as possible, so that races are met."""
    if not hasattr(sys, "setswitchinterval"):
        yield
        return
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def make_exception(name: str) -> BaseException:
    """Return an exception of the class called *name*, one of ``RAISED``."""
    if name == "CancelledError":
        from asyncio import CancelledError

        return CancelledError(name)
    import builtins

    exception: BaseException = getattr(builtins, name)(name)
    return exception


def interrupt(
    function: Callable[[], Any], number: int, handler: Callable[[], Any]
) -> bool:
    """Call *function*, and *handler* in the middle of it, as a signal handler is.

    :param number: before which step in the package's code, counted from 1
    :returns: whether there are so many steps
    """
    left = number

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        if not frame.f_globals.get("__name__", "").startswith("kazoo_seqthreading"):
            return None
        frame.f_trace_opcodes = True
        if event in ("line", "opcode"):
            left -= 1
            if left == 0:
                handler()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return left <= 0
