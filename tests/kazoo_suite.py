"""A pytest plugin: kazoo's own test suite, with our handler in place of kazoo's.

::

    python -m pytest -p tests.kazoo_suite -c /dev/null --pyargs kazoo.tests

``tox -e kazoo-suite`` has the whole command line. ``--stock`` runs the same with
kazoo's own handler, for comparison. No test is left out.

Rules:

1. ``replacement.py`` replaces the handler.
2. Only the surroundings of the tests change, never a test: the servers listen on
   127.0.0.1 and on ports of this process, live until the tests need others, and are
   waited for by asking them. What they leave behind is removed, also when the
   process is killed.
"""

from __future__ import annotations

import importlib
import logging
import os
import random
import re
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest

from tests.zookeeper import (
    HOST,
    JANITOR,
    JVM_FLAGS,
    ZooKeeperNotFound,
    find_java,
    find_zookeeper,
)

pytest_plugins = ["tests.replacement"]

# Their attributes are replaced, which types know nothing of.
common: Any = importlib.import_module("kazoo.testing.common")
harness: Any = importlib.import_module("kazoo.testing.harness")

#: Tests that race with either handler on a loaded machine, and are run again then.
RACES = {
    # start() looks at the session after authentication has closed it already.
    "test_invalid_sasl_auth",
    # It waits for an event that has been cleared again.
    "TestSemaphore::test_handle_session_loss",
}

CONFIG = [
    f"clientPortAddress={HOST}",
    f"secureClientPortAddress={HOST}",
    "admin.enableServer=false",
    "forceSync=no",
]

SERVING = ("leader", "follower", "standalone")

#: The ports of a process's servers are in a block of this size.
BLOCK = 30


def pytest_configure(config: pytest.Config) -> None:
    # A client that a test leaves behind goes on complaining after the last test.
    logging.getLogger("kazoo").addHandler(logging.NullHandler())
    with ExitStack() as stack:
        try:
            _prepare_servers(stack)
        except ZooKeeperNotFound as error:
            raise pytest.UsageError(str(error)) from None
        config.add_cleanup(stack.pop_all().close)


def pytest_report_header() -> str:
    return f"ZooKeeper {os.environ['ZOOKEEPER_VERSION']}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.endswith(tuple(RACES)):
            item.add_marker(pytest.mark.flaky(reruns=3))
        cls = getattr(item, "cls", None)
        # These take the first handler that is installed, which would be gevent's.
        if cls is not None and hasattr(cls, "HANDLERS"):
            cls.HANDLERS = (("kazoo.handlers.threading", "SequentialThreadingHandler"),)
    # It takes half a minute: several processes end sooner if one begins with it.
    items.sort(key=lambda item: "TestReadOnlyMode" not in item.nodeid)


def _prepare_servers(stack: ExitStack) -> None:
    """Make the tests' harness start what we want, until *stack* is closed."""
    for name in ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"):
        os.environ.pop(name, None)
    java = find_java()
    class_path = find_zookeeper()
    command = [java, "-cp", class_path, "org.apache.zookeeper.Version", "--short"]
    version = subprocess.run(command, capture_output=True, check=True, text=True)
    os.environ.update(
        CI="true",  # runs the tests that look at the version
        ZOOKEEPER_CLASSPATH=class_path,
        ZOOKEEPER_PORT_OFFSET=str(_reserve_ports(stack)),
        ZOOKEEPER_VERSION=version.stdout.strip(),
    )
    _prepare_folder(stack)

    def launch(args: list[str]) -> subprocess.Popen[bytes]:
        folder = Path(args[-1]).parent
        with open(folder / "zookeeper.log", "ab") as log:
            process = subprocess.Popen(
                [java, *JVM_FLAGS, *args[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for the tests, not for it
            )
        (folder / "pid").write_text(str(process.pid))
        return process

    def stop(
        server: Any, stop: Callable[[Any], None] = common.ManagedZooKeeper.stop
    ) -> None:
        stop(server)
        with suppress(FileNotFoundError):
            Path(server.working_path, "pid").unlink()

    def make_cluster(**options: Any) -> Any:
        options["configuration_entries"] += CONFIG
        return common.ZookeeperCluster(**options)

    common.subprocess = SimpleNamespace(Popen=launch)
    common.ManagedZooKeeper.stop = stop
    common.ZookeeperCluster.start = _start
    harness.ZookeeperCluster = make_cluster
    harness.KazooTestCase.tearDownClass = classmethod(_tear_down_class)
    stack.callback(lambda: harness.CLUSTER and harness.CLUSTER.terminate())


def _prepare_folder(stack: ExitStack) -> None:
    """Have all temporary files in a folder that is removed in any case."""
    tempfile.tempdir = tempfile.mkdtemp()
    janitor = subprocess.Popen(
        ["/bin/sh", "-c", JANITOR, tempfile.tempdir],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    stack.callback(janitor.communicate)


def _reserve_ports(stack: ExitStack) -> int:
    """Return the first port of a block that other such processes do not get."""
    blocks = range(10020, 32700, BLOCK)
    for first in random.SystemRandom().sample(blocks, len(blocks)):
        with ExitStack() as sockets, suppress(OSError):
            for port in range(first, first + BLOCK):
                last = sockets.enter_context(socket.socket())
                last.bind((HOST, port))
            stack.enter_context(last.dup())  # the harness does not use it
            return first
    raise pytest.UsageError("there are no free ports for ZooKeeper")


def _start(cluster: Any, timeout: float = 60.0) -> None:
    """Start the servers of a harness' cluster and wait until each of them serves."""
    for server in cluster:
        server.run()
    deadline = time.monotonic() + timeout
    for server in cluster:
        while not _serves(server) and time.monotonic() < deadline:
            if server.process.poll() is not None:
                break  # the harness finds out, and tries again
            time.sleep(0.02)


def _serves(server: Any) -> bool:
    with suppress(OSError):
        address = (server.host, server.client_port)
        with socket.create_connection(address, 0.5) as connection:
            connection.sendall(b"srvr")
            with connection.makefile() as reply:
                mode = re.search("^Mode: (.*)$", reply.read(), re.MULTILINE)
                return mode is not None and mode[1] in SERVING
    return False


def _tear_down_class(cls: type[Any]) -> None:
    """Leave the servers to the next class, unless this one reconfigured them."""
    if cls.__name__ == "TestReconfig":
        harness.get_global_cluster().terminate()
