"""Tests of the fixtures: a leak is found, ``stock_fails`` is strict."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support import ROOT, KazooClient, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.zookeeper import ZooKeeper


@contextmanager
def started(
    folder: Path, source: str, *options: str, **env: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the tests in *source* with our fixtures, in a process of its own."""
    folder.joinpath("test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-rA"]
    command += ["-c", os.devnull, "--rootdir", str(folder), "--tb=no", "-q", *options]
    command += ["-p", "no:cacheprovider", "-o", "console_output_style=classic"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    with folder.joinpath("report.txt").open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def outcomes(folder: Path, source: str, *options: str, **env: str) -> dict[str, str]:
    """Run the tests in *source* with our fixtures; return what became of each."""
    report = folder / "report.txt"
    with started(folder, source, *options, **env) as process:
        process.wait(60.0)
    result: dict[str, str] = {}
    for line in report.read_text().splitlines():
        word, _, rest = line.partition(" ")
        if "::" in rest:
            name = rest.split("::")[1].split(" ")[0]
            result[name] = "+".join(filter(None, [result.get(name), word]))
    return result


LEAKS = """
import os, socket, threading
import pytest

kept = []

@pytest.fixture(scope="session")
def leak_timeout():
    return 0.3

def test_clean():
    with socket.socket():
        thread = threading.Thread(target=print, name="kazoo-seqthreading")
        thread.start()

def test_descriptor():
    kept.append(socket.socket())

def test_clean_after_a_leak():
    pass

def test_reused_descriptor():
    number = os.open(os.devnull, os.O_RDONLY)
    os.dup2(kept[0].fileno(), number)
    os.close(kept.pop().detach())

def test_thread():
    event = threading.Event()
    kept.append(event.set)
    threading.Thread(target=event.wait).start()

def test_daemon():
    threading.Thread(target=threading.Event().wait, daemon=True).start()

def test_thread_of_the_library():
    name = "kazoo-seqthreading-completion"
    threading.Thread(target=threading.Event().wait, name=name, daemon=True).start()

def test_last():
    kept.pop()()
"""


def test_leaks_are_found(tmp_path: Path) -> None:
    assert outcomes(tmp_path, LEAKS) == {
        "test_clean": "PASSED",
        "test_descriptor": "PASSED+ERROR",
        "test_clean_after_a_leak": "PASSED",
        "test_reused_descriptor": "PASSED+ERROR",
        "test_thread": "PASSED+ERROR",
        "test_daemon": "PASSED",
        "test_thread_of_the_library": "PASSED+ERROR",
        "test_last": "PASSED",
    }


STOCK = """
import pytest

@pytest.fixture
def broken():
    raise OSError

@pytest.mark.stock_fails("it does")
def test_fails():
    raise ValueError

@pytest.mark.stock_fails("it does")
def test_does_not_fail():
    pass

@pytest.mark.stock_fails("it does")
def test_fixture_fails(broken):
    pass

def test_handler(handler_class):
    assert handler_class.__module__ == "kazoo.handlers.threading"
"""


def test_stock_fails_is_strict(tmp_path: Path) -> None:
    assert outcomes(tmp_path, STOCK, "--handler=kazoo") == {
        "test_fails": "XFAIL",
        "test_does_not_fail": "FAILED",
        "test_fixture_fails": "ERROR",
        "test_handler": "PASSED",
    }


def test_stock_fails_means_nothing_for_ours(tmp_path: Path) -> None:
    result = outcomes(tmp_path, STOCK, "--deselect=test_it.py::test_handler")
    assert result == {
        "test_fails": "FAILED",
        "test_does_not_fail": "PASSED",
        "test_fixture_fails": "ERROR",
    }


# A client that hangs in stop(): kazoo's handler waits for a callback.
HANGS = """
import threading, pytest

def block(result):
    threading.Event().wait()

@pytest.mark.stock_fails("it hangs")
def test_hangs(client):
    client.exists_async("/").rawlink(block)
    raise ValueError

def test_next(client):
    client.create("/a")
"""


def test_stock_handler_that_hangs_ends(tmp_path: Path) -> None:
    result = outcomes(tmp_path, HANGS, "--handler=kazoo")
    assert result == {"test_hangs": "XFAIL", "test_next": "PASSED"}


LIVE = """
import os

def test_chroot(client, hosts):
    assert hosts.startswith(os.environ["ZOOKEEPER_HOSTS"])
    assert client.get_children("/") == []
    client.create("/a/b/c", makepath=True)

def test_another(client, hosts):
    test_chroot(client, hosts)
"""


@pytest.mark.parametrize("chroot", ["", "/app"])
def test_live_ensemble_is_left_as_it_was(
    tmp_path: Path, own_server: ZooKeeper, chroot: str
) -> None:
    hosts = own_server.hosts + chroot
    result = outcomes(tmp_path, LIVE, "--handler=kazoo", ZOOKEEPER_HOSTS=hosts)

    assert result == {"test_chroot": "PASSED", "test_another": "PASSED"}
    assert left_behind(own_server, chroot) == []


def left_behind(server: ZooKeeper, chroot: str = "") -> list[str]:
    """Return the nodes that do not belong to an empty server."""
    client = KazooClient(server.hosts)
    client.start()
    try:
        nodes = client.get_children("/")
        if chroot:
            nodes += client.get_children(chroot)
    finally:
        client.stop()
        client.close()
    return [node for node in nodes if node not in ("zookeeper", "app")]


#: Tells where it is, and waits there.
BLOCKED = """
import pathlib, threading
from tests import conftest

def here():
    pathlib.Path("here").touch()
    threading.Event().wait({seconds})

removed = conftest._removed

def remove(client, path):
    if {place!r} == "teardown":
        here()
    return removed(client, path)

conftest._removed = remove

def test_blocked(client):
    client.create("/a")
    if {place!r} == "call":
        here()

def test_next(client):
    pathlib.Path("next").touch()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("place", "seconds"), [("call", 60), ("teardown", 1)])
def test_tests_that_are_ended_leave_nothing_behind(
    tmp_path: Path,
    own_server: ZooKeeper,
    number: signal.Signals,
    place: str,
    seconds: int,
) -> None:
    source = BLOCKED.format(place=place, seconds=seconds)
    with started(tmp_path, source, ZOOKEEPER_HOSTS=own_server.hosts) as process:
        wait_until(tmp_path.joinpath("here").exists, 30.0)
        process.send_signal(number)
        assert process.wait(30.0) == pytest.ExitCode.INTERRUPTED

    assert not tmp_path.joinpath("next").exists()
    assert left_behind(own_server) == []
