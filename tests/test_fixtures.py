"""Tests of the fixtures: a leak is found, ``stock_fails`` is strict."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import ROOT, KazooClient

if TYPE_CHECKING:
    from pathlib import Path

    from tests.zookeeper import ZooKeeper


def outcomes(folder: Path, source: str, *options: str, **env: str) -> dict[str, str]:
    """Run the tests in *source* with our fixtures; return what became of each."""
    folder.joinpath("test_it.py").write_text(source)
    report = folder / "report.txt"
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-rA"]
    command += ["-c", os.devnull, "--rootdir", str(folder), "--tb=no", "-q", *options]
    with report.open("w") as output:
        subprocess.run(
            [*command, "-p", "no:cacheprovider", "-o", "console_output_style=classic"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            stdout=output,
            timeout=60.0,
            check=False,
        )
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
    client = KazooClient(own_server.hosts)
    client.start()
    try:
        assert set(client.get_children("/")) <= {"zookeeper", "app"}
        if chroot:
            assert client.get_children(chroot) == []
    finally:
        client.stop()
        client.close()
