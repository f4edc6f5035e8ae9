"""``python -m kazoo_seqthreading``."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE

from kazoo_seqthreading import SequentialThreadingHandler
from kazoo_seqthreading.__main__ import main
from kazoo_seqthreading._compare import WORK
from tests.support import ROOT, KazooClient, wait_until
from tests.zookeeper import ZooKeeper

LIMIT = 60.0
FIGURES = (
    "operations_per_second",
    "p50_ms",
    "p99_ms",
    "cpu_us_per_operation",
)


@contextmanager
def program(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run the comparison in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kazoo_seqthreading", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def figures_of(text: str) -> dict[str, Any]:
    """Check what ``--json`` has printed, and return it."""
    found: dict[str, Any] = json.loads(text)
    assert [result["work"] for result in found["results"]] == list(WORK)
    for result in found["results"]:
        for name in FIGURES:
            ours, kazoos = result["ours"][name], result["kazoo"][name]
            assert ours > 0
            assert kazoos > 0
            assert result["ratio"][name] == pytest.approx(ours / kazoos, rel=0.01)
        for who in ("ours", "kazoo"):
            assert result[who]["p50_ms"] <= result[who]["p99_ms"]
    return found


# -- what it shows ---------------------------------------------------------------------


def test_table(hosts: str, client: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--hosts", hosts, "--seconds", "1"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert all(len(line) <= 80 for line in out.splitlines())
    about, where, blank, head, *rows = out.splitlines()
    assert re.match(r"kazoo_seqthreading [\d.]+\w*, kazoo [\d.]+\w*, \w+ [\d.]+", about)
    assert re.match(r"on \S+:\d+, medians of 3 rounds", where)
    assert blank == ""
    assert re.split(r"\s{2,}", head.strip()) == [
        "operations/s",
        "p50 ms",
        "p99 ms",
        "CPU us/operation",
    ]
    assert rows[0::4] == list(WORK)
    number = r"\s+[\d,]+(\.\d+)?"
    for ours, kazoos, ratio in zip(rows[1::4], rows[2::4], rows[3::4]):
        assert re.fullmatch(rf"  kazoo_seqthreading({number}){{4}}", ours)
        assert re.fullmatch(rf"  kazoo's handler({number}){{4}}", kazoos)
        assert re.fullmatch(r"  ratio(\s+\d+\.\d\dx){4}", ratio)
    assert client.get_children("/") == []


def test_json(hosts: str, client: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--hosts", hosts, "--seconds", "1", "--json"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    found = figures_of(out)
    assert (found["seconds"], found["rounds"]) == (1, 3)
    assert client.get_children("/") == []


def test_reads_more_than_its_own_node_never(hosts: str, client: Any) -> None:
    """It leaves what is there alone."""
    client.create("/mine", b"value")
    assert main(["--hosts", hosts, "--seconds", "0.5"]) == 0
    data, stat = client.get("/mine")
    assert (data, stat.version, stat.cversion) == (b"value", 0, 0)
    assert client.get_children("/") == ["mine"]


def test_ensemble(ensemble: ZooKeeper, capfd: pytest.CaptureFixture[str]) -> None:
    """Both handlers are measured on one and the same server."""
    assert main(["--hosts", ensemble.hosts, "--seconds", "1", "--json"]) == 0
    server = figures_of(capfd.readouterr().out)["server"]
    assert server in [node.address for node in ensemble.nodes]


def test_progress_on_a_terminal(hosts: str) -> None:
    ours, theirs = pty.openpty()
    with program("--hosts", hosts, "--seconds", "1", stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while True:
                shown += os.read(ours, 4096)
        except OSError:  # the process has closed its end
            pass
        finally:
            os.close(ours)
        out, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    states = shown.decode().split("\r\x1b[K")
    assert states[0] == ""
    assert states[-1] == ""  # the bar is taken away
    bars = states[1:-1]
    shares = []
    for bar in bars:
        assert len(bar) < 80
        found = re.match(r"\[#*\.*\] +(\d+)%  ", bar)
        assert found, bar
        shares.append(int(found[1]))
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 100
    assert "%" not in out


# -- TLS and authentication ------------------------------------------------------------


def test_tls(tls_server: ZooKeeper, capfd: pytest.CaptureFixture[str]) -> None:
    tls = tls_server.tls
    assert tls is not None
    arguments = ["--hosts", tls_server.tls_hosts, "--seconds", "0.5", "--json"]
    arguments += ["--use-ssl", "--ca", tls.ca]
    arguments += ["--certfile", tls.client_cert, "--keyfile", tls.client_key]
    status = main(arguments)
    out, err = capfd.readouterr()
    assert (status, err) == (0, "")
    assert figures_of(out)["server"] == tls_server.tls_hosts


def test_tls_without_verification(tls_server: ZooKeeper) -> None:
    arguments = ["--hosts", tls_server.tls_hosts, "--seconds", "0.5", "--use-ssl"]
    assert main([*arguments, "--no-verify-certs"]) == 0


def test_tls_with_an_unknown_authority(
    tls_server: ZooKeeper, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--hosts", tls_server.tls_hosts, "--use-ssl"]) == 1
    assert "CERTIFICATE_VERIFY_FAILED" in one_line(capfd)


def test_tls_port_without_tls(
    tls_server: ZooKeeper, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--hosts", tls_server.tls_hosts, "--timeout", "1"]) == 1
    assert "(without --use-ssl)" in one_line(capfd)


@pytest.fixture
def locked(client: Any) -> Iterator[None]:
    """Only a certain user may do anything under the chroot."""
    client.add_auth("digest", "user:secret")
    client.set_acls("/", CREATOR_ALL_ACL)
    yield
    client.set_acls("/", OPEN_ACL_UNSAFE)


@pytest.mark.usefixtures("locked")
def test_authentication(
    hosts: str, client: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--hosts", hosts, "--seconds", "0.5", "--auth", "digest:user:secret"]
    assert main(arguments) == 0
    assert "secret" not in "".join(capfd.readouterr())
    assert client.get_children("/") == []


@pytest.mark.usefixtures("locked")
@pytest.mark.parametrize("auth", [[], ["--auth", "digest:user:wrong"]])
def test_not_allowed(
    hosts: str, auth: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--hosts", hosts, "--seconds", "0.5", *auth]) == 1
    assert "not allowed to create" in one_line(capfd)


def test_authentication_that_fails(
    hosts: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--hosts", hosts, "--auth", "nonsense:secret"]) == 1
    message = one_line(capfd)
    assert "the authentication failed" in message
    assert "secret" not in message


# -- errors ----------------------------------------------------------------------------


def one_line(capfd: pytest.CaptureFixture[str]) -> str:
    """Return the one line on standard error; nothing else has been printed."""
    out, err = capfd.readouterr()
    assert out == ""
    return the_line(err)


def the_line(err: str) -> str:
    assert err.startswith("kazoo_seqthreading: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


def test_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        address = "{}:{}".format(*bound.getsockname())
        assert main(["--hosts", address]) == 1
    assert f"Connection refused ({address})" in one_line(capfd)


def test_name_that_does_not_exist(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--hosts", "zookeeper.invalid:2181"]) == 1
    assert "cannot connect: zookeeper.invalid: " in one_line(capfd)


def test_server_that_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "{}:{}".format(*server.getsockname())
        assert main(["--hosts", address, "--timeout", "1"]) == 1
    assert "no session within 1 s" in one_line(capfd)


def test_chroot_that_does_not_exist(
    hosts: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--hosts", f"{hosts}/nothing/here"]) == 1
    assert "/nothing/here does not exist" in one_line(capfd)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: --hosts"),
        (["--hosts", "a", "--seconds", "0"], "--seconds: must be at least 0.5"),
        (["--hosts", "a", "--seconds", "nan"], "--seconds: must be at least 0.5"),
        (["--hosts", "a", "--timeout", "soon"], "--timeout: must be at least 0.5"),
        (["--hosts", "a", "--auth", "digest"], "--auth: must be SCHEME:CREDENTIAL"),
        (["--hosts", "a", "--use-ssl", "--ca", "/no"], "--ca: /no: No such file"),
        (["--hosts", "a", "--check-hostname"], "--check-hostname needs --use-ssl"),
        (["--hosts", "a", "--no-such-option"], "--no-such-option"),
    ],
)
def test_bad_arguments(
    arguments: list[str], complaint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert complaint in one_line(capfd)


@pytest.mark.parametrize("hosts", ["", "127.0.0.1:port", "[::1"])
def test_bad_hosts(hosts: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--hosts", hosts]) == 1
    assert "bad hosts" in one_line(capfd)


def test_help_fits(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert all(len(line) <= 80 for line in capfd.readouterr().out.splitlines())


# -- in the middle of it ---------------------------------------------------------------


def appears(client: Any) -> None:
    wait_until(lambda: client.get_children("/"), LIMIT, "the node of the comparison")


def test_interrupted(hosts: str, client: Any) -> None:
    with program("--hosts", hosts) as process:
        appears(client)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT)
    assert client.get_children("/") == []
    assert (process.returncode, out, err) == (
        130,
        "",
        "kazoo_seqthreading: interrupted\n",
    )


def test_killed(hosts: str, client: Any) -> None:
    """The server removes the node, as soon as the session has expired."""
    with program("--hosts", hosts, "--timeout", "1") as process:
        appears(client)
        process.kill()
        process.communicate(timeout=LIMIT)
    wait_until(lambda: client.get_children("/") == [], LIMIT)


def measures(client: Any) -> bool:
    """Tell whether a comparison has written to its node."""
    for name in client.get_children("/"):
        stat = client.exists(f"/{name}")
        if name.startswith("kazoo-seqthreading-") and stat and stat.version:
            return True
    return False


def test_server_that_goes_away(own_server: ZooKeeper) -> None:
    client = KazooClient(own_server.hosts, handler=SequentialThreadingHandler())
    client.start()
    try:
        with program("--hosts", own_server.hosts, "--timeout", "2") as process:
            wait_until(lambda: measures(client), LIMIT)
            own_server.nodes[0].kill()
            out, err = process.communicate(timeout=LIMIT)
    finally:
        client.stop()
        client.close()
    assert (process.returncode, out) == (1, "")
    assert "the connection was lost" in the_line(err)
