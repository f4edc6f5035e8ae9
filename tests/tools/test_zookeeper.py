"""Tests of the launcher: its servers, its command line, and what it leaves behind."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import zookeeper as launcher
from tests.support import (
    ROOT,
    is_running,
    make_tls,
    run_python,
    slow_import,
    wait_until,
)
from tests.zookeeper import (
    DEBIAN_JARS,
    ZooKeeper,
    ZooKeeperError,
    ZooKeeperNotFound,
    find_java,
    find_zookeeper,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import MakeClient

WRAPPER = [sys.executable, str(ROOT / "tests" / "zookeeper.py")]

# Starts servers, tells where they are, and waits.
LAUNCH = """
import sys
from tests.zookeeper import ZooKeeper

with ZooKeeper(int(sys.argv[1])) as zookeeper:
    print(zookeeper.hosts, *(node.pid for node in zookeeper.nodes), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder that only the servers of this test use."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def launched(source: str, nodes: int = 1) -> Iterator[subprocess.Popen[str]]:
    """Run *source* in a process of its own, which is killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", source, str(nodes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: subprocess.Popen[str], limit: float = 60.0) -> list[str]:
    """Return the words of the next line of output, which comes in *limit* seconds."""
    assert process.stdout is not None
    line, deadline = b"", time.monotonic() + limit
    while not line.endswith(b"\n"):
        left = max(deadline - time.monotonic(), 0)
        ready, _, _ = select.select([process.stdout], [], [], left)
        assert ready, f"not within {limit} s: the rest of the line {line!r}"
        byte = os.read(process.stdout.fileno(), 1)  # no more: the next is the next's
        if not byte:
            break
        line += byte
    return line.decode().split()


def refuses(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), 1.0).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


def processes_of(folder: Path) -> list[str]:
    """Return the processes that have *folder* among their arguments (on Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(folder) in path.read_text():
                found.append(path.parent.name)
    return found


def gone(hosts: str, pids: list[str], folder: Path) -> bool:
    """Whether servers and janitors have ended, and nothing is left of them."""
    return (
        not any(is_running(int(pid)) for pid in pids)
        and not processes_of(folder)
        and all(map(refuses, hosts.split(",")))
        and not os.listdir(folder)
    )


# One server


def test_start_and_stop(temporary: Path, make_client: MakeClient) -> None:
    with ZooKeeper() as zookeeper:
        (node,) = zookeeper.nodes
        assert zookeeper.hosts == node.address == f"127.0.0.1:{node.port}"
        assert (node.alive, node.mode()) == (True, "standalone")
        assert zookeeper.leader() is node
        assert zookeeper.followers() == []
        client = make_client(hosts=zookeeper.hosts)
        client.start()
        assert client.create("/a", b"1") == "/a"
        client.stop()
        (folder,) = temporary.iterdir()
        assert folder.stat().st_mode & 0o077 == 0
        hosts, pid = zookeeper.hosts, str(node.pid)
    assert gone(hosts, [pid], temporary)
    assert (node.alive, node.pid, node.mode()) == (False, None, "")
    assert zookeeper.hosts == ""
    zookeeper.stop()


def test_starts_again_after_stop(temporary: Path) -> None:
    zookeeper = ZooKeeper()
    for _ in range(2):
        with zookeeper:
            assert zookeeper.nodes[0].mode() == "standalone"
            with pytest.raises(ZooKeeperError, match="is running"):
                zookeeper.start()
            with pytest.raises(ZooKeeperError, match="is running"):
                zookeeper.nodes[0].launch()
        assert os.listdir(temporary) == []


def test_session_is_accepted_at_once(
    own_server: ZooKeeper, make_client: MakeClient
) -> None:
    (node,) = own_server.nodes
    for _ in range(3):
        node.kill()
        node.start()
        client = make_client(hosts=own_server.hosts, connection_retry={"max_tries": 0})
        client.start()
        client.stop()


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_restart_keeps_address_and_data(
    own_server: ZooKeeper, make_client: MakeClient, end: str
) -> None:
    (node,) = own_server.nodes
    address, pid = node.address, node.pid
    client = make_client(hosts=own_server.hosts)
    client.start()
    client.create(f"/{end}", b"kept")
    client.stop()
    getattr(node, end)()
    assert not node.alive
    assert refuses(address)
    node.start()
    assert node.address == address
    assert node.pid != pid
    client.start()

    assert client.get(f"/{end}")[0] == b"kept"


def test_suspend_and_resume(own_server: ZooKeeper) -> None:
    (node,) = own_server.nodes
    node.suspend()
    assert node.alive
    assert node.suspended
    assert node.mode() == ""
    with socket.create_connection((node.host, node.port), 1.0) as connection:
        connection.sendall(b"srvr")
        connection.settimeout(0.2)
        with pytest.raises(socket.timeout):
            connection.recv(1)
        node.resume()
        connection.settimeout(10.0)
        assert connection.recv(9) == b"Zookeeper"

    assert node.mode() == "standalone"


def test_suspended_server_ends(own_server: ZooKeeper) -> None:
    (node,) = own_server.nodes
    node.suspend()
    node.stop()
    assert not node.alive
    assert not node.suspended
    with pytest.raises(ZooKeeperError, match="is not running"):
        node.suspend()
    with pytest.raises(ZooKeeperError, match="is not running"):
        node.resume()


def test_restore(own_server: ZooKeeper) -> None:
    (node,) = own_server.nodes
    node.kill()
    own_server.restore()
    assert node.mode() == "standalone"
    pid = node.pid
    node.suspend()
    own_server.restore()

    assert node.mode() == "standalone"
    assert node.pid == pid


def test_log() -> None:
    # Java's own line at each start: which of a server's are logged, depends on it.
    with ZooKeeper(config={"-Xlog:gc": "info"}) as zookeeper:
        (node,) = zookeeper.nodes
        first = node.log()
        assert first.count("Using Serial") == 1
        node.kill()
        node.start()
        assert node.log().startswith(first)
        assert node.log().count("Using Serial") == 2


def test_config_and_properties() -> None:
    config = {"maxSessionTimeout": "7000", "-Dzookeeper.forceSync": "yes"}
    with ZooKeeper(config=config) as zookeeper:
        (node,) = zookeeper.nodes
        with socket.create_connection((node.host, node.port), 10.0) as connection:
            connection.sendall(b"conf")
            with connection.makefile() as answer:
                assert "maxSessionTimeout=7000" in answer.read().splitlines()
        arguments = Path(f"/proc/{node.pid}/cmdline")
        if arguments.exists():
            assert "-Dzookeeper.forceSync=yes" in arguments.read_text().split("\0")


def test_no_nodes() -> None:
    with pytest.raises(ValueError, match="at least one node, not 0"):
        ZooKeeper(0)


def test_failure_shows_the_log(temporary: Path) -> None:
    with pytest.raises(ZooKeeperError) as caught:
        ZooKeeper(config={"tickTime": "soon"}).start()
    assert "does not run. Its log:" in str(caught.value)
    assert "soon" in str(caught.value)
    assert os.listdir(temporary) == []


def test_server_that_does_not_get_ready(temporary: Path) -> None:
    with ZooKeeper() as zookeeper:
        (node,) = zookeeper.nodes
        node.suspend()
        with pytest.raises(ZooKeeperError, match=r"is not ready after 0\.2 s"):
            node.wait_ready(timeout=0.2)
        with pytest.raises(ZooKeeperError, match="has no leader after 0 s"):
            zookeeper.leader(timeout=0)


@pytest.mark.parametrize(
    ("nodes", "port"),
    [
        pytest.param(1, -1, id="client"),
        pytest.param(3, -7, id="client-of-three"),
        pytest.param(3, -2, id="election"),
    ],
)
def test_taken_port(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, nodes: int, port: int
) -> None:
    """Another process was faster; even if it is a ZooKeeper, which serves."""
    attempts: list[list[int]] = []

    def reserve_ports(count: int) -> list[socket.socket]:
        reserved = reserve(count)
        if not attempts:
            reserved[port].close()
            reserved[port] = held[taken]
        attempts.append([udp.getsockname()[1] for udp in reserved])
        return reserved

    with ZooKeeper() as other:
        taken = other.nodes[0].port
        held = {udp.getsockname()[1]: udp for udp in other._reserved}
        reserve = launcher._reserve_ports
        monkeypatch.setattr(launcher, "_reserve_ports", reserve_ports)
        with ZooKeeper(nodes) as zookeeper:
            assert len(attempts) == 2
            assert taken == attempts[0][port]
            assert taken not in attempts[1]
            assert other.hosts not in zookeeper.hosts
            assert zookeeper.leader().alive
        assert other.nodes[0].mode() == "standalone"

    assert os.listdir(temporary) == []


def reserved_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        return [
            stack.enter_context(udp).getsockname()[1]
            for udp in launcher._reserve_ports(count)
        ]


def test_ports_differ_and_are_not_ephemeral() -> None:
    ports = reserved_ports(50)
    assert len(set(ports)) == 50
    with socket.create_server(("127.0.0.1", 0)) as ephemeral:
        assert max(ports) < ephemeral.getsockname()[1]


def test_ports_do_not_follow_the_seed() -> None:
    random.seed(1)
    first = reserved_ports(4)
    random.seed(1)

    assert reserved_ports(4) != first


def test_ports_stay_reserved_while_the_server_is_down(own_server: ZooKeeper) -> None:
    (node,) = own_server.nodes
    node.kill()
    udp = socket.socket(type=socket.SOCK_DGRAM)
    with udp, pytest.raises(OSError, match="in use"):
        udp.bind((node.host, node.port))


# Three servers


def test_ensemble(ensemble: ZooKeeper) -> None:
    modes = sorted(node.mode() for node in ensemble.nodes)
    assert modes == ["follower", "follower", "leader"]
    assert ensemble.leader().mode() == "leader"
    assert {ensemble.leader(), *ensemble.followers()} == set(ensemble.nodes)
    assert ensemble.hosts == ",".join(node.address for node in ensemble.nodes)


@pytest.mark.parametrize("end", ["kill", "stop", "suspend"])
@pytest.mark.parametrize("role", ["leader", "follower"])
def test_ensemble_survives_the_loss_of_one(
    ensemble: ZooKeeper, make_client: MakeClient, role: str, end: str
) -> None:
    leader = ensemble.leader()
    lost = leader if role == "leader" else ensemble.followers()[0]
    getattr(lost, end)()
    rest = [node for node in ensemble.nodes if node is not lost]
    survivor = ensemble.leader()
    assert survivor in rest
    assert role == "leader" or survivor is leader
    for node in rest:
        node.wait_ready()
    client = make_client(hosts=",".join(node.address for node in rest))
    client.start()
    client.create("/survived", ephemeral=True)
    client.stop()
    ensemble.restore()

    assert sorted(node.mode() for node in ensemble.nodes).count("follower") == 2


def test_no_quorum_no_leader(ensemble: ZooKeeper) -> None:
    for node in ensemble.nodes[:2]:
        node.kill()
    last = ensemble.nodes[2]
    wait_until(lambda: last.mode() not in ("leader", "follower"), timeout=20.0)
    assert ensemble.followers() == []
    with pytest.raises(ZooKeeperError, match="has no leader"):
        ensemble.leader(timeout=0.1)


# TLS


def test_tls_port_accepts_a_session(
    tls_server: ZooKeeper, make_client: MakeClient
) -> None:
    assert tls_server.tls is not None
    assert tls_server.tls_hosts == f"127.0.0.1:{tls_server.nodes[0].tls_port}"
    client = make_client(hosts=tls_server.tls_hosts, use_ssl=True, ca=tls_server.tls.ca)
    client.start()
    client.create("/over-tls", ephemeral=True)
    plain = make_client(hosts=tls_server.hosts)
    plain.start()

    assert plain.exists("/over-tls")


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_tls_versions(tls_server: ZooKeeper, version: str) -> None:
    assert tls_server.tls is not None
    context = ssl.create_default_context(cafile=tls_server.tls.ca)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    address = ("127.0.0.1", tls_server.nodes[0].tls_port)
    with context.wrap_socket(
        socket.create_connection(address, 10.0), server_hostname="localhost"
    ) as secured:
        assert secured.version() == version.replace("_", ".")


def test_tls_client_certificate(tmp_path: Path, make_client: MakeClient) -> None:
    tls = make_tls(tmp_path, client_auth=True)
    with ZooKeeper(tls=tls) as zookeeper:
        context = ssl.create_default_context(cafile=tls.ca)
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # 1.3 tells it later
        address = ("127.0.0.1", zookeeper.nodes[0].tls_port)
        plain = socket.create_connection(address, 10.0)
        with plain, pytest.raises(OSError):  # an alert, or a reset
            context.wrap_socket(plain, server_hostname="127.0.0.1")
        client = make_client(
            hosts=zookeeper.tls_hosts,
            use_ssl=True,
            ca=tls.ca,
            certfile=tls.client_cert,
            keyfile=tls.client_key,
        )
        client.start()
        client.create("/known")
        client.stop()


def test_no_tls(own_server: ZooKeeper) -> None:
    assert own_server.nodes[0].tls_port is None
    with pytest.raises(ZooKeeperError, match="has no TLS"):
        own_server.tls_hosts  # noqa: B018


# What is left behind


@pytest.mark.parametrize("nodes", [1, 3])
def test_servers_die_with_the_process_that_is_killed(
    temporary: Path, nodes: int
) -> None:
    with launched(LAUNCH, nodes) as process:
        hosts, *pids = first_line(process)
        assert len(pids) == nodes
        assert not any(map(refuses, hosts.split(",")))
        process.kill()
    wait_until(lambda: gone(hosts, pids, temporary))


def test_suspended_server_dies_with_the_process_that_is_killed(
    temporary: Path,
) -> None:
    with launched(LAUNCH) as process:
        hosts, pid = first_line(process)
        os.kill(int(pid), signal.SIGSTOP)
        process.kill()
    wait_until(lambda: gone(hosts, [pid], temporary))


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.1, 0.3])
def test_killed_while_it_starts_servers(temporary: Path, delay: float) -> None:
    # The first gettempdir() of a process writes a file, which is not the launcher's.
    source = LAUNCH.replace(
        "with ",
        "import tempfile; tempfile.gettempdir(); print('now', flush=True)\nwith ",
    )
    with launched(source, 3) as process:
        assert first_line(process) == ["now"]
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay)
        process.kill()

    def left() -> str:
        return f"{processes_of(temporary)} {os.listdir(temporary)}"

    try:
        wait_until(lambda: left() == "[] []", 30.0)
    except AssertionError:
        pytest.fail(f"left behind: {left()}")


def test_server_writes_where_its_folder_was_moved(
    temporary: Path, make_client: MakeClient
) -> None:
    # Or a server that has begun would make the folder anew that a janitor has moved.
    with ZooKeeper(config={"snapCount": "4"}) as zookeeper:
        (folder,) = temporary.glob("zookeeper-*")
        moved = folder.rename(temporary / "moved")
        before = set(moved.glob("1/version-2/*"))
        client = make_client(hosts=zookeeper.hosts)
        client.start()
        for number in range(8):  # the log is cut at the latest after four
            client.create(f"/{number}")
        client.stop()
        assert set(moved.glob("1/version-2/log.*")) - before
        assert not folder.exists()
        moved.rename(folder)


FORK = """
import os, sys
from tests.zookeeper import ZooKeeper

with ZooKeeper() as zookeeper:
    line = f"{zookeeper.hosts} {zookeeper.nodes[0].pid}"
    if not os.fork():
        zookeeper.stop()
        print(line, flush=True)
    sys.stdin.read()
"""


def test_servers_die_though_a_forked_child_lives(temporary: Path) -> None:
    with launched(FORK) as process:
        hosts, pid = first_line(process)
        assert not refuses(hosts)
        assert is_running(int(pid))
        process.kill()
        wait_until(lambda: gone(hosts, [pid], temporary))


def test_servers_outlive_a_forked_child(temporary: Path) -> None:
    source = FORK.replace(
        "    sys.stdin", "        sys.exit()\n    os.wait()\n    sys.stdin"
    )
    source = source.replace(
        "    sys.stdin", "    print('ended', flush=True)\n    sys.stdin"
    )
    with launched(source) as process:
        hosts, pid = first_line(process)
        assert first_line(process) == ["ended"]
        assert not refuses(hosts)
        assert is_running(int(pid))
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30.0) == 0

    assert gone(hosts, [pid], temporary)


@pytest.mark.parametrize("last", ["pass", "raise SystemExit", "os.kill(0, 15)"])
def test_servers_die_though_nobody_stops_them(temporary: Path, last: str) -> None:
    source = f"""
import os
from tests.zookeeper import ZooKeeper

zookeeper = ZooKeeper()
zookeeper.start()
print(zookeeper.hosts, zookeeper.nodes[0].pid, flush=True)
os.setpgrp()
{last}
"""
    with launched(source) as process:
        hosts, pid = first_line(process)
        process.wait(30.0)
        wait_until(lambda: gone(hosts, [pid], temporary))


def test_servers_outlive_the_thread_that_started_them() -> None:
    source = """
from threading import Thread
from tests.zookeeper import ZooKeeper

zookeeper = ZooKeeper()
thread = Thread(target=zookeeper.start)
thread.start()
thread.join()
zookeeper.nodes[0].wait_ready()
print(zookeeper.nodes[0].mode())
zookeeper.stop()
"""
    done = run_python(source)
    assert (done.stdout, done.stderr) == ("standalone\n", "")


# The command line


def wrap(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WRAPPER, *arguments],
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )


@pytest.mark.parametrize("nodes", [1, 3])
def test_wrapper_sets_hosts(temporary: Path, nodes: int) -> None:
    source = """
import os, socket

for address in os.environ["ZOOKEEPER_HOSTS"].split(","):
    with socket.create_connection(address.split(":"), 10.0) as connection:
        connection.sendall(b"ruok")
        print(connection.recv(4).decode())
"""
    done = wrap("--nodes", str(nodes), "--", sys.executable, "-c", source)

    assert done.stderr == ""
    assert done.stdout == "imok\n" * nodes
    assert done.returncode == 0
    assert os.listdir(temporary) == []


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137)],
)
def test_wrapper_returns_the_status(temporary: Path, script: str, status: int) -> None:
    done = wrap("--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
    assert os.listdir(temporary) == []


def test_wrapper_hands_over_arguments_as_they_are() -> None:
    done = wrap("--", "printf", "%s|", "--nodes", "", "a b", "--", "$HOME")
    assert done.stdout == "--nodes||a b|--|$HOME|"


def test_wrapper_without_zookeeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOOKEEPER_HOME", str(tmp_path))
    done = wrap("--", "echo", "ran")

    assert (done.returncode, done.stdout) == (125, "")
    assert f"ZOOKEEPER_HOME={tmp_path} holds no ZooKeeper release" in done.stderr
    assert "apt-get install libzookeeper-java" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrapper_without_its_command(temporary: Path) -> None:
    done = wrap("--", "/nonexistent/command")
    assert done.returncode == 127
    assert done.stderr == "/nonexistent/command: No such file or directory\n"
    done = wrap("--", str(temporary))

    assert done.returncode == 126
    assert done.stderr == f"{temporary}: Permission denied\n"
    assert os.listdir(temporary) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND is missing"),
        (["--"], "COMMAND is missing"),
        (["true"], "true"),
        (["--nodes", "2", "--", "true"], "--nodes"),
    ],
)
def test_wrapper_usage(arguments: list[str], message: str) -> None:
    done = wrap(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_wrapper_forwards_signals(temporary: Path, number: signal.Signals) -> None:
    script = f'trap "exit 7" {number.name[3:]}; echo $$; while :; do sleep 0.05; done'
    with subprocess.Popen(
        [*WRAPPER, "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        (pid,) = first_line(process)
        process.send_signal(number)
        assert process.wait(30.0) == 7

    assert not is_running(int(pid))
    assert os.listdir(temporary) == []


def test_wrapper_waits_for_the_command_after_ctrl_c(temporary: Path) -> None:
    script = 'trap "" INT; echo $$; read line; echo $line; exit 7'
    with subprocess.Popen(
        [*WRAPPER, "--", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        assert first_line(process)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate("went on\n", timeout=30.0)
        assert output == "went on\n"

    assert process.returncode == 7
    assert os.listdir(temporary) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("begun", ["", "/1", "/*/pid", "/*/version-2"])
def test_wrapper_ended_while_it_starts_servers(
    temporary: Path, number: signal.Signals, begun: str
) -> None:
    with subprocess.Popen(
        [*WRAPPER, "--nodes", "3", "--", "echo", "ran"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        wait_until(lambda: list(temporary.glob(f"zookeeper-*{begun}")), 30.0)
        os.killpg(process.pid, number)
        assert process.communicate(timeout=30.0) == ("", "")
    assert process.returncode == -number
    wait_until(lambda: not processes_of(temporary), 30.0)
    wait_until(lambda: not os.listdir(temporary), 30.0)


def test_wrapper_interrupted_while_it_is_loaded(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*WRAPPER, "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=slow_import("argparse", tmp_path),
        text=True,
    ) as process:
        wait_until(tmp_path.joinpath("importing").exists, 30.0)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30.0) == ("", "")
    assert process.returncode == -signal.SIGINT


def test_wrapper_whose_output_nobody_reads(temporary: Path) -> None:
    with subprocess.Popen(
        [*WRAPPER, "--", "sh", "-c", "while :; do echo line; done"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.wait(30.0) == 128 + signal.SIGPIPE
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert os.listdir(temporary) == []


def test_wrapper_killed(temporary: Path) -> None:
    script = "echo $ZOOKEEPER_HOSTS $(cat $TMPDIR/*/1/pid); read line"
    with subprocess.Popen(
        [*WRAPPER, "--", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        hosts, pid = first_line(process)
        process.kill()
        wait_until(lambda: gone(hosts, [pid], temporary))


# Discovery


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOOKEEPER_HOME", raising=False)
    monkeypatch.delenv("JAVA_HOME", raising=False)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return path


@pytest.mark.usefixtures("no_home")
def test_finds_debians(tmp_path: Path) -> None:
    touch(tmp_path / "opt/homebrew/opt/zookeeper/libexec/lib/zookeeper-3.9.3.jar")
    touch(tmp_path / "usr/share/java/zookeeper.jar")
    jars = find_zookeeper(tmp_path).split(":")

    assert jars[0] == str(tmp_path / "usr/share/java/zookeeper.jar")
    assert len(jars) == len(DEBIAN_JARS)


@pytest.mark.usefixtures("no_home")
@pytest.mark.parametrize("prefix", launcher.HOMEBREW)
def test_finds_homebrews(tmp_path: Path, prefix: str) -> None:
    libexec = tmp_path / prefix / "opt/zookeeper/libexec"
    touch(libexec / "lib/zookeeper-3.9.3.jar")
    java = touch(tmp_path / prefix / "opt/openjdk/bin/java")
    etc = tmp_path / prefix / "etc/zookeeper"

    assert find_zookeeper(tmp_path) == f"{etc}:{libexec}/*:{libexec}/lib/*"
    assert find_java(tmp_path) == str(java)


@pytest.mark.usefixtures("no_home")
def test_finds_none(tmp_path: Path) -> None:
    with pytest.raises(ZooKeeperNotFound) as caught:
        find_zookeeper(tmp_path)
    assert str(caught.value).startswith("No ZooKeeper is installed. Install it:\n")
    for advice in (
        "apt-get install libzookeeper-java",
        "brew install",
        "ZOOKEEPER_HOME",
    ):
        assert advice in str(caught.value)


@pytest.mark.usefixtures("no_home")
def test_finds_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ZooKeeperNotFound, match="needs Java, and there is none"):
        find_java(tmp_path)
    java = touch(tmp_path / "bin/java")
    assert find_java(tmp_path) == str(java)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    with pytest.raises(ZooKeeperNotFound, match="jdk holds no Java"):
        find_java(tmp_path)
    java = touch(tmp_path / "jdk/bin/java")

    assert find_java(tmp_path) == str(java)


def test_runs_an_unpacked_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``ZOOKEEPER_HOME`` comes first; spaces in its name do no harm."""
    home = tmp_path / "apache zookeeper"
    (home / "lib").mkdir(parents=True)
    for entry in map(Path, find_zookeeper().split(":")):
        for jar in entry.parent.glob("*.jar") if entry.name == "*" else [entry]:
            if jar.exists():
                (home / "lib" / jar.name).symlink_to(jar)
    monkeypatch.setenv("ZOOKEEPER_HOME", str(home))
    assert find_zookeeper("/nonexistent").startswith(f"{home}/conf:{home}/*:")
    with ZooKeeper() as zookeeper:
        assert zookeeper.nodes[0].mode() == "standalone"
