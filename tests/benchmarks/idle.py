"""What a client does that has nothing to do, between two heartbeats.

``python -m tests.benchmarks.idle HANDLER HOSTS`` is such a client, until its standard
input ends. The benchmark counts its system calls with ``strace`` where that is allowed,
else its voluntary context switches: a thread that makes a system call to wait makes
one of these.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support import ROOT

#: Well below the time between two heartbeats.
SECONDS = 3.0
TIMEOUT = 30.0
#: After so many seconds without work, background threads have ended.
SETTLE_SECONDS = 5.0

SYSTEM_CALLS, SWITCHES = "system calls", "context switches"


def observe(name: str, hosts: str) -> tuple[str, int] | None:
    """Count what an idle client does in :data:`SECONDS`.

    :returns: what was counted, and how many; ``None`` where nothing can be
    """
    with _idle_client(name, hosts) as pid:
        return count(pid, SECONDS)


def count(pid: int, seconds: float) -> tuple[str, int] | None:
    """Count what a process does from now on."""
    calls = _count_system_calls(pid, seconds)
    if calls is not None:
        return SYSTEM_CALLS, calls
    if not os.path.isdir(f"/proc/{pid}/task"):
        return None
    before = _count_switches(pid)
    time.sleep(seconds)
    return SWITCHES, _count_switches(pid) - before


@contextmanager
def _idle_client(name: str, hosts: str) -> Iterator[int]:
    command = [sys.executable, "-m", "tests.benchmarks.idle", name, hosts]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        try:
            if not process.stdout.readline():
                raise RuntimeError("the idle client did not start")
            yield process.pid
        finally:
            try:
                process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


def _count_system_calls(pid: int, seconds: float) -> int | None:
    if shutil.which("strace") is None:
        return None
    with subprocess.Popen(
        ["strace", "-f", "-e", "signal=none", "-o", "|cat", "-p", str(pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as strace:
        assert strace.stdout is not None and strace.stderr is not None
        if "attached" not in strace.stderr.readline():
            strace.kill()  # it is not allowed here
            return None
        time.sleep(seconds)
        strace.send_signal(signal.SIGINT)
        try:
            lines = strace.communicate(timeout=TIMEOUT)[0].splitlines()
        except subprocess.TimeoutExpired:
            strace.kill()
            return None
    # What was under way before and after does not count.
    return sum(
        not ("<detached" in line or "<unfinished" in line or "resuming" in line)
        for line in lines
    )


def _count_switches(pid: int) -> int:
    switches = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with suppress(FileNotFoundError):
            for line in status.read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches:"):
                    switches += int(line.split()[1])
    return switches


def main() -> None:
    """Be an idle client."""
    from kazoo.client import KazooClient

    from tests.benchmarks.subjects import HANDLERS, SESSION_TIMEOUT, close

    name, hosts = sys.argv[1:]
    client = KazooClient(hosts, timeout=SESSION_TIMEOUT, handler=HANDLERS[name]())
    client.start()
    try:
        client.exists("/")
        time.sleep(SETTLE_SECONDS)
        print("idle", flush=True)
        sys.stdin.read()
    finally:
        close(client)


if __name__ == "__main__":
    main()
