"""The demo: what it shows is so, and it says where it is not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kazoo_seqthreading.__main__ import UNREAD
from tests.support import PROGRAM_TIMEOUT, ROOT, run_python, slow_import, wait_until

STEPS = [
    "Connect",
    "Create, read, write",
    "Watches",
    "Chained calls",
    "asyncio",
    "A lock",
    "An election",
    "The server is killed",
]
COMPARISON = "kazoo's handler and ours"


def start_demo(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start the demo in a folder where nothing can be imported by chance."""
    environment = {k: v for k, v in os.environ.items() if k != "ZOOKEEPER_HOSTS"}
    return subprocess.Popen(
        [sys.executable, ROOT / "tests" / "demo.py", "--seconds", "1", *arguments],
        cwd="/",
        env={**environment, "PYTHONIOENCODING": "utf-8", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    with start_demo(*arguments) as demo:
        try:
            out, err = demo.communicate(timeout=100)
        finally:
            demo.kill()
    return subprocess.CompletedProcess(demo.args, demo.returncode, out, err)


def titles(out: str) -> list[str]:
    return [line for line in out.splitlines() if re.match(r"\d\. ", line)]


def complaints(err: str) -> list[str]:
    """Return the lines that do not tell what the comparison is at."""
    return [line for line in err.splitlines() if not line.startswith("measuring: ")]


def test_private_server() -> None:
    demo = run_demo()
    assert (demo.returncode, complaints(demo.stderr)) == (0, []), demo.stdout
    assert all(len(line) <= 80 for line in demo.stdout.splitlines())
    assert "\x1b" not in demo.stdout
    found = titles(demo.stdout)
    assert len(found) == len(STEPS)
    for number, (title, step) in enumerate(zip(found, STEPS), 1):
        assert title.startswith(f"{number}. {step}")
    assert "✗" not in demo.stdout
    assert "why it was lost, as it logs: " in demo.stdout
    last = demo.stdout.partition(COMPARISON)[2]

    assert "operations/s" in last
    assert "times as many operations per second" in last


def test_private_server_is_gone() -> None:
    demo = run_python(
        """
import sys
from tests import demo, zookeeper

servers = []

class Noted(zookeeper.ZooKeeper):
    def start(self):
        super().start()
        servers.append(self.nodes[0])

demo.ZooKeeper = Noted
status = demo.main(["--seconds", "0.5"])
assert len(servers) == 1 and not servers[0].alive
sys.exit(status)
""",
        timeout=100,
        env={"ZOOKEEPER_HOSTS": "", "PYTHONIOENCODING": "utf-8"},
    )
    assert (demo.returncode, complaints(demo.stderr)) == (0, [])


def test_own_ensemble(hosts: str, client: Any) -> None:
    demo = run_demo("--hosts", hosts)
    assert (demo.returncode, complaints(demo.stderr)) == (0, []), demo.stdout
    assert "where nothing is killed" in demo.stdout
    assert len(titles(demo.stdout)) == len(STEPS) - 1
    assert STEPS[-1] not in demo.stdout
    assert client.get_children("/") == []


@pytest.mark.parametrize(
    ("number", "word"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")],
)
@pytest.mark.parametrize("place", [*STEPS[2:7], COMPARISON])
def test_interrupted(
    hosts: str, client: Any, place: str, number: signal.Signals, word: str
) -> None:
    with start_demo("--hosts", hosts) as demo:
        try:
            assert demo.stdout is not None
            begun = any(place in line for line in demo.stdout)
            demo.send_signal(number)
            out, err = demo.communicate(timeout=PROGRAM_TIMEOUT)
        finally:
            demo.kill()
    assert begun
    assert demo.returncode == 128 + number
    told = [*out.splitlines(), *complaints(err)]

    assert told[-1].endswith(word)
    assert complaints(err) in ([], [f"kazoo_seqthreading: {word}"])
    assert client.get_children("/") == []


def test_nobody_reads_on(hosts: str, client: Any) -> None:
    """As with ``| head``."""
    with start_demo("--hosts", hosts) as demo:
        try:
            assert demo.stdout is not None
            begun = demo.stdout.readline()
            demo.stdout.close()
            demo.stdout = None
            _, err = demo.communicate(timeout=PROGRAM_TIMEOUT)
        finally:
            demo.kill()
    assert begun.startswith("kazoo_seqthreading ")
    assert (demo.returncode, err) == (UNREAD, "")
    assert client.get_children("/") == []


def test_interrupted_while_it_is_loaded(tmp_path: Path) -> None:
    with start_demo(**slow_import("argparse", tmp_path)) as demo:
        try:
            wait_until(tmp_path.joinpath("importing").exists, PROGRAM_TIMEOUT)
            demo.send_signal(signal.SIGINT)
            out, err = demo.communicate(timeout=PROGRAM_TIMEOUT)
        finally:
            demo.kill()
    assert (demo.returncode, out, err) == (-signal.SIGINT, "", "")


def test_without_a_server() -> None:
    demo = run_python(
        """
import sys
from tests import demo

demo.CONNECT_LIMIT = 1.0
sys.exit(demo.main(["--hosts", "127.0.0.1:1"]))
"""
    )
    assert (demo.returncode, demo.stderr) == (1, "")
    assert "no server answers on 127.0.0.1:1" in demo.stdout


BROKEN = """
import sys
from tests import demo

class Broken(demo.SequentialThreadingHandler):
    {method}

demo.SequentialThreadingHandler = Broken
demo.TIMEOUT = 2.0
sys.exit(demo.main(["--hosts", sys.argv[1], "--seconds", "0.5"]))
"""


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        pytest.param(
            "def dispatch_callback(self, callback): pass",
            "Watches",
            id="no watch event arrives",
        ),
        pytest.param(
            "completion_queue = None",
            "Chained calls",
            id="no callback runs",
        ),
    ],
)
def test_what_is_broken_is_seen(
    hosts: str, client: Any, method: str, complaint: str
) -> None:
    demo = run_python(
        BROKEN.format(method=method),
        hosts,
        timeout=60,
        env={"PYTHONIOENCODING": "utf-8"},
    )
    assert demo.returncode == 1, demo.stdout
    *_, last = titles(demo.stdout)

    assert complaint in last
    assert "✗" in demo.stdout.splitlines()[-1]
    assert client.get_children("/") == []
