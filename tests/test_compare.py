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
from pathlib import Path
from typing import Any

import pytest
from kazoo.exceptions import (
    ConnectionClosedError,
    ConnectionLoss,
    SessionExpiredError,
)
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE

from kazoo_seqthreading import SequentialThreadingHandler
from kazoo_seqthreading.__main__ import UNREAD, main
from kazoo_seqthreading._compare import WORK, _describe
from tests.support import PROGRAM_TIMEOUT, ROOT, KazooClient, slow_import, wait_until
from tests.zookeeper import ZooKeeper

FIGURES = (
    "operations_per_second",
    "p50_ms",
    "p99_ms",
    "cpu_us_per_operation",
)
#: What standard error has in the end, where it is no terminal.
PROGRESS = "".join(f"measuring: {what}\n" for what in WORK)


@contextmanager
def program(
    *arguments: str, script: str = "", **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Run the comparison, or *script*, in a process of its own."""
    what = ["-c", script] if script else ["-m", "kazoo_seqthreading"]
    process = subprocess.Popen(
        [sys.executable, *what, *arguments],
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
    assert err == PROGRESS
    assert all(len(line) <= 80 for line in out.splitlines())
    about, where, blank, head, *rows = out.splitlines()
    assert re.match(r"kazoo_seqthreading [\d.]+\w*, kazoo [\d.]+\w*, \w+ [\d.]+", about)
    assert re.match(r"on \S+:\d+, medians of 3 rounds", where)
    assert blank == ""
    assert re.split(r"\s{2,}", head.strip()) == [
        "operations/s",
        "p50 ms",
        "CPU us/operation",
    ]
    rows, legend = rows[: 4 * len(WORK)], rows[4 * len(WORK) :]
    assert rows[0::4] == list(WORK)
    number = r"\s+[\d,]+(\.\d+)?"
    for ours, kazoos, ratio in zip(rows[1::4], rows[2::4], rows[3::4]):
        assert re.fullmatch(rf"  kazoo_seqthreading({number}){{3}}", ours)
        assert re.fullmatch(rf"  kazoo's handler({number}){{3}}", kazoos)
        assert re.fullmatch(r"  ratio(\s+\d+\.\d\dx){3}", ratio)
    rates, _, cpu = zip(*(map(float, re.findall(r"[\d.]+", row)) for row in rows[3::4]))
    assert legend[2].startswith("More operations per second are better")
    first, last, least, most = map(float, re.findall(r"\d[\d.]*", "".join(legend)))

    assert (first, last) == pytest.approx((min(rates), max(rates)), abs=0.06)
    assert (least, most) == pytest.approx((100 * min(cpu), 100 * max(cpu)), abs=1.01)
    assert client.get_children("/") == []


def test_json(hosts: str, client: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--hosts", hosts, "--seconds", "1", "--json"]) == 0
    out, err = capfd.readouterr()
    assert err == PROGRESS
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
        out, _ = process.communicate(timeout=PROGRAM_TIMEOUT)
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
    assert "[#" not in out


# -- TLS and authentication ------------------------------------------------------------


def test_tls(tls_server: ZooKeeper, capfd: pytest.CaptureFixture[str]) -> None:
    tls = tls_server.tls
    assert tls is not None
    arguments = ["--hosts", tls_server.tls_hosts, "--seconds", "0.5", "--json"]
    arguments += ["--use-ssl", "--ca", tls.ca]
    arguments += ["--certfile", tls.client_cert, "--keyfile", tls.client_key]
    status = main(arguments)
    out, err = capfd.readouterr()

    assert (status, err) == (0, PROGRESS)
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
def test_authentication_from_a_file(
    hosts: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"digest:user:secret\r\nnot this\xff\n")

    assert main(["--hosts", hosts, "--seconds", "0.5", "--auth", f"@{secret}"]) == 0
    assert "secret" not in "".join(capfd.readouterr())


def test_sasl(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("puresasl")
    jaas, secret = tmp_path / "jaas.conf", tmp_path / "secret"
    module = "org.apache.zookeeper.server.auth.DigestLoginModule"
    jaas.write_text(f'Server {{ {module} required user_anna="s3cret"; }};')
    provider = "org.apache.zookeeper.server.auth.SASLAuthenticationProvider"
    config = {"-Djava.security.auth.login.config": str(jaas)}
    config["authProvider.1"] = provider
    config["-Dzookeeper.fips-mode"] = "false"  # or 3.9.4 and later refuse MD5
    with ZooKeeper(config=config) as zookeeper:
        for password, status in (("s3cret", 0), ("wrong", 1)):
            secret.write_text(password)
            options = ("mechanism=DIGEST-MD5", "username=anna", f"password=@{secret}")
            arguments = ["--hosts", zookeeper.hosts, "--seconds", "0.5"]
            for option in options:
                arguments += ["--sasl", option]
            assert main(arguments) == status

    assert "authentication failed" in capfd.readouterr().err


def test_tls_with_a_password_from_a_file(
    tls_server: ZooKeeper, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tls = tls_server.tls
    assert tls is not None
    key, right, wrong = tmp_path / "key", tmp_path / "right", tmp_path / "wrong"
    key.write_bytes(encrypted(Path(tls.client_key).read_bytes(), b"@ a password "))
    right.write_text("@ a password \n")
    wrong.write_text("a password")
    arguments = ["--hosts", tls_server.tls_hosts, "--seconds", "0.5", "--use-ssl"]
    arguments += ["--ca", tls.ca, "--certfile", tls.client_cert, "--keyfile", str(key)]

    assert main([*arguments, "--keyfile-password", f"@{right}"]) == 0
    assert capfd.readouterr().err == PROGRESS
    assert main([*arguments, "--keyfile-password", f"@{wrong}"]) == 1
    assert "a password" not in one_line(capfd)


def encrypted(key: bytes, password: bytes) -> bytes:
    """Return a private key such that it takes *password* to read it."""
    from cryptography.hazmat.primitives import serialization as pem

    return pem.load_pem_private_key(key, None).private_bytes(
        pem.Encoding.PEM,
        pem.PrivateFormat.PKCS8,
        pem.BestAvailableEncryption(password),
    )


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
    """Return the one line that comes after those that tell of the progress."""
    err = re.sub(r"(?m)^measuring: .*\n", "", err)
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
        ([], "--hosts"),
        (["--hosts", "a", "--seconds", "0"], "--seconds: must be at least 0.5"),
        (["--hosts", "a", "--seconds", "nan"], "--seconds: must be at least 0.5"),
        (["--hosts", "a", "--timeout", "soon"], "--timeout: must be at least 0.5"),
        (["--hosts", "a", "--auth", "digest"], "--auth: must be SCHEME:CREDENTIAL"),
        (["--hosts", "a", "--sasl", "password"], "--sasl: must be OPTION=VALUE"),
        (["--hosts", "a", "--sasl", "password=@/no"], "--sasl: @/no: No such file"),
        (["--hosts", "a", "--auth", "@/no"], "--auth: @/no: No such file"),
        (["--hosts", "a", "--auth", "@/"], "--auth: @/: Is a directory"),
        (["--hosts", "a", "--auth", "@"], "--auth: @: No such file"),
        (
            ["--hosts", "a", "--auth", "@/dev/null"],
            "--auth: @/dev/null: the first line is empty",
        ),
        (
            ["--hosts", "a", "--use-ssl", "--keyfile-password", "@/no"],
            "--keyfile-password: @/no: No such file",
        ),
        (
            ["--hosts", "a", "--keyfile-password", "given"],
            "--keyfile-password needs --use-ssl",
        ),
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


def test_secret_that_is_no_text(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "file"
    secret.write_bytes(b"digest:user:\xff\n")
    with pytest.raises(SystemExit) as stopped:
        main(["--hosts", "a", "--auth", f"@{secret}"])

    assert stopped.value.code == 2
    assert f"--auth: @{secret}: not UTF-8" in one_line(capfd)


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
    wait_until(
        lambda: client.get_children("/"), PROGRAM_TIMEOUT, "the node of the comparison"
    )


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_interrupted(
    hosts: str, client: Any, number: signal.Signals, status: int, word: str
) -> None:
    with program("--hosts", hosts) as process:
        appears(client)
        process.send_signal(number)
        out, err = process.communicate(timeout=PROGRAM_TIMEOUT)
    assert client.get_children("/") == []
    assert (process.returncode, out) == (status, "")
    assert the_line(err) == f"kazoo_seqthreading: {word}\n"


def test_interrupted_while_it_is_loaded(tmp_path: Path) -> None:
    with program("--help", env=slow_import("argparse", tmp_path)) as process:
        wait_until(tmp_path.joinpath("importing").exists, PROGRAM_TIMEOUT)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PROGRAM_TIMEOUT)
    assert (process.returncode, out, err) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_nobody_reads_on(hosts: str, client: Any, closed: str) -> None:
    """As with ``| head``."""
    with program("--hosts", hosts, "--seconds", "1") as process:
        appears(client)
        getattr(process, closed).close()
        setattr(process, closed, None)
        out, err = process.communicate(timeout=PROGRAM_TIMEOUT)
    assert client.get_children("/") == []
    assert process.returncode == UNREAD
    assert (out or "", err or "") == ("", PROGRESS if closed == "stdout" else "")


def test_nobody_reads_the_help() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    with program("--help", stdout=writer, env=buffered) as process:
        os.close(writer)
        _, err = process.communicate(timeout=PROGRAM_TIMEOUT)

    assert (process.returncode, err) == (UNREAD, "")


def test_killed(hosts: str, client: Any) -> None:
    """The server removes the node, as soon as the session has expired."""
    with program("--hosts", hosts, "--timeout", "1") as process:
        appears(client)
        process.kill()
        process.communicate(timeout=PROGRAM_TIMEOUT)
    wait_until(lambda: client.get_children("/") == [], PROGRAM_TIMEOUT)


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
            wait_until(lambda: measures(client), PROGRAM_TIMEOUT)
            own_server.nodes[0].kill()
            out, err = process.communicate(timeout=PROGRAM_TIMEOUT)
    finally:
        client.stop()
        client.close()

    assert (process.returncode, out) == (1, "")
    assert "the connection was lost" in the_line(err)


#: Runs the comparison for one kind of work, and misbehaves at the requests of the
#: client with one of the two handlers, in the middle of them. It tells when it begins.
MISBEHAVING = """
import itertools, pathlib, sys, threading, time

import kazoo.client
import kazoo.handlers.threading
import kazoo_seqthreading
from kazoo.protocol.states import KazooState
from kazoo_seqthreading import _compare
from kazoo_seqthreading.__main__ import main

fault, handler, what, told, *arguments = sys.argv[1:]
module = {"kazoo": kazoo.handlers.threading, "ours": kazoo_seqthreading}[handler]

class Client(kazoo.client.KazooClient):
    requests = itertools.count()

    def create_async(self, *args, **kwargs):
        if fault == "not created":
            pathlib.Path(told).touch()
            return self.handler.async_result()
        return super().create_async(*args, **kwargs)

    def get_async(self, *args, **kwargs):
        return self.misbehave() or super().get_async(*args, **kwargs)

    def set_async(self, *args, **kwargs):
        return self.misbehave() or super().set_async(*args, **kwargs)

    def misbehave(self):
        if type(self.handler) is not module.SequentialThreadingHandler:
            return None
        if next(self.requests) < 20:
            return None
        while self._pending or self._queue:  # what is not answered would fail at once
            time.sleep(0.01)
        pathlib.Path(told).touch()
        if fault == "lost":
            while self.state == KazooState.CONNECTED:
                time.sleep(0.01)
        elif fault == "unanswered":
            return self.handler.async_result()
        elif fault == "stuck":  # kazoo's handler waits for it, when it is stopped
            self.handler.completion_queue.put(threading.Event().wait)
        return None

_compare._make_client = Client
_compare.WORK = {what: _compare.WORK[what]}
sys.exit(main(arguments))
"""


@contextmanager
def misbehaving(
    fault: str, handler: str, what: str, hosts: str, folder: Path
) -> Iterator[subprocess.Popen[str]]:
    """Run the comparison, which has got to where it misbehaves."""
    told = folder / "told"
    arguments = [fault, handler, what, str(told), "--hosts", hosts]
    arguments += ["--seconds", "1", "--timeout", "2"]
    with program(*arguments, script=MISBEHAVING) as process:
        wait_until(lambda: told.exists() or process.poll() is not None, PROGRAM_TIMEOUT)
        yield process


KINDS = list(WORK)
both_handlers = pytest.mark.parametrize("handler", ["kazoo", "ours"])


@both_handlers
@pytest.mark.parametrize(
    "what",
    [
        pytest.param(what, marks=[pytest.mark.faults] if number % 3 else [])
        for number, what in enumerate(KINDS)
    ],
)
def test_server_that_is_killed_before_a_request(
    own_server: ZooKeeper, handler: str, what: str, tmp_path: Path
) -> None:
    """kazoo queues the request, for a connection that never comes back."""
    hosts = own_server.hosts
    with misbehaving("lost", handler, what, hosts, tmp_path) as process:
        own_server.nodes[0].kill()
        out, err = process.communicate(timeout=PROGRAM_TIMEOUT)

    assert (process.returncode, out) == (1, "")
    assert the_line(err) == "kazoo_seqthreading: the connection was lost\n"


@both_handlers
@pytest.mark.parametrize(
    "what", [KINDS[0], pytest.param(KINDS[1], marks=pytest.mark.faults)]
)
def test_server_that_hangs_before_a_request(
    own_server: ZooKeeper, handler: str, what: str, tmp_path: Path
) -> None:
    """It accepts connections, but no sessions."""
    hosts = own_server.hosts
    with misbehaving("lost", handler, what, hosts, tmp_path) as process:
        own_server.nodes[0].suspend()
        out, err = process.communicate(timeout=PROGRAM_TIMEOUT)

    assert (process.returncode, out) == (1, "")
    assert the_line(err).startswith("kazoo_seqthreading: the connection was lost")


def test_node_that_is_not_created(hosts: str, tmp_path: Path) -> None:
    what = next(iter(WORK))
    with misbehaving("not created", "ours", what, hosts, tmp_path) as process:
        out, err = process.communicate(timeout=PROGRAM_TIMEOUT)

    assert (process.returncode, out) == (1, "")
    assert "the connection was lost: no answer for 2 s" in the_line(err)


@both_handlers
def test_answer_that_does_not_come(hosts: str, handler: str, tmp_path: Path) -> None:
    """What kazoo forgets about, though the connection is there."""
    what = next(iter(WORK))
    with misbehaving("unanswered", handler, what, hosts, tmp_path) as process:
        out, err = process.communicate(timeout=PROGRAM_TIMEOUT)

    assert (process.returncode, out) == (1, "")
    assert "the connection was lost: no answer for 2 s" in the_line(err)


def test_client_that_does_not_stop(hosts: str, client: Any, tmp_path: Path) -> None:
    """The figures are there, and shown; nothing hangs at exit either."""
    what = next(iter(WORK))
    with misbehaving("stuck", "kazoo", what, hosts, tmp_path) as process:
        out, err = process.communicate(timeout=PROGRAM_TIMEOUT)

    assert (process.returncode, err) == (0, f"measuring: {what}\n")
    assert what in out
    assert client.get_children("/") == []


@pytest.mark.parametrize(
    "error", [ConnectionLoss(), ConnectionClosedError("closed"), SessionExpiredError()]
)
def test_lost_connection_in_every_form(error: Exception) -> None:
    assert _describe(error) == "the connection was lost"
