"""Helpers that the tests share."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import kazoo.client
import pytest

T = TypeVar("T")

#: What the fixture ``make_client`` is: it takes the arguments of ``KazooClient``.
MakeClient = Callable[..., Any]

#: kazoo's client. The class has no types, so that strict code may not call it.
KazooClient: MakeClient = kazoo.client.KazooClient

ROOT = Path(__file__).parent.parent

#: For tests that see an object freed as soon as nobody needs it.
refcounted = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="it needs reference counting"
)


def wait_until(predicate: Callable[[], T], timeout: float = 10.0, what: str = "") -> T:
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
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", source, *arguments],
        env={**os.environ, "PYTHONPATH": path, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def thread_stacks() -> str:
    """Return what every thread is doing, for the message of a failure."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"{names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )


def descriptors() -> dict[int, str]:
    """Return the open file descriptors, each with what it is open on."""
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    result = {}
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
