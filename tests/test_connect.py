"""Connecting: one deadline, every address, no socket left open, TLS."""

from __future__ import annotations

import errno
import inspect
import os
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kazoo_seqthreading import SequentialThreadingHandler
from tests.support import (
    TIMEOUT,
    Address,
    KazooClient,
    MakeClient,
    descriptors,
    make_dead,
    make_tls,
    wait_until,
)
from tests.zookeeper import ZooKeeper

if TYPE_CHECKING:
    import trustme

#: A limit given to what is tested, and how long it may take then, in seconds.
CONNECT_TIMEOUT, SOON = 0.5, 3.0


@pytest.fixture
def handler(handler_class: type[Any]) -> Any:
    """A handler that is not started; connecting does not need that."""
    return handler_class()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def silent(stack: ExitStack) -> Address:
    """The address of a server that accepts and says nothing."""
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
    address: Address = server.getsockname()
    return address


@pytest.fixture
def closed() -> Address:
    """An address on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address: Address = server.getsockname()
    return address


@pytest.fixture
def dead(stack: ExitStack) -> Address:
    return make_dead(stack, "127.0.0.1")


def serve(stack: ExitStack, serve_one: Callable[[socket.socket], Any]) -> Address:
    """Start a server that calls *serve_one* with each connection, one by one."""
    server = socket.create_server(("127.0.0.1", 0))
    address: Address = server.getsockname()

    def run() -> None:
        while True:
            try:
                sock, _ = server.accept()
            except OSError:
                return
            # The second is PyPy's, where TLS ends in a way that has no name.
            with sock, suppress(OSError, RuntimeError):
                serve_one(sock)

    thread = threading.Thread(target=run, daemon=True)

    def stop() -> None:
        server.shutdown(socket.SHUT_RDWR)  # ends accept
        thread.join(TIMEOUT)
        server.close()

    thread.start()
    stack.callback(stop)
    return address


def names(monkeypatch: pytest.MonkeyPatch, *addresses: Address) -> str:
    """Return a name with these addresses. Only the name service is not a real one."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "several.example":
            return real(host, port, *args, **kwargs)
        kind = socket.SOCK_STREAM
        return [(socket.AF_INET, kind, 6, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return "several.example"


@pytest.fixture
def authority() -> trustme.CA:
    authority: trustme.CA = pytest.importorskip("trustme").CA()
    return authority


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> str:
    """The file of the authority that the client trusts."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def tls(authority: trustme.CA, stack: ExitStack) -> Any:
    """A TLS server; ``tls.names`` are the server names that clients asked for."""
    return TlsServer(authority.issue_cert("zoo.example", "127.0.0.1"), stack)


class TlsServer:
    """Says "hello" to those who shake hands."""

    def __init__(self, certificate: trustme.LeafCert, stack: ExitStack) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)
        self.context.sni_callback = lambda ssl, name, context: self.names.append(name)
        self.names: list[str] = []
        self.address = serve(stack, self._serve)

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT)
        with self.context.wrap_socket(sock, server_side=True) as wrapped:
            wrapped.sendall(b"hello")
            wrapped.recv(1)


def tls_of(connection: Any) -> Any:
    """Return what tells of a connection's TLS."""
    return getattr(connection, "ssl_object", connection)


# -- addresses -----------------------------------------------------------------------


def test_connection(handler: Any, stack: ExitStack) -> None:
    address = serve(stack, lambda sock: sock.sendall(sock.recv(3)[::-1]))
    with handler.create_connection(address, timeout=TIMEOUT) as connection:
        assert connection.getpeername() == address
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.sendall(b"abc")
        assert connection.recv(10) == b"cba"
        assert connection.recv(10) == b""


@pytest.mark.stock_fails("the message does not say which address")
def test_closed_port(handler: Any, closed: Address) -> None:
    with pytest.raises(ConnectionRefusedError, match=f"127.0.0.1:{closed[1]}") as error:
        handler.create_connection(closed, timeout=TIMEOUT)
    assert error.value.errno == errno.ECONNREFUSED


@pytest.mark.stock_fails("the message does not say which address")
def test_unresolvable_host(handler: Any) -> None:
    with pytest.raises(OSError, match=r"no-such-host\.invalid:2181"):
        handler.create_connection(("no-such-host.invalid", 2181), timeout=TIMEOUT)


@pytest.mark.stock_fails("the message does not say which address")
def test_dead_host(handler: Any, dead: Address) -> None:
    began = time.monotonic()
    with pytest.raises(OSError, match=f"127.0.0.1:{dead[1]}") as error:
        handler.create_connection(dead, timeout=CONNECT_TIMEOUT)

    assert time.monotonic() - began < SOON
    assert error.value.errno == errno.ETIMEDOUT


@pytest.mark.parametrize("first", ["refuses", "is dead"])
def test_several_addresses(
    handler: Any, stack: ExitStack, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    address = serve(stack, lambda sock: sock.sendall(b"second"))
    if first == "is dead":
        make_dead(stack, "127.0.0.2", address[1])
    name = names(monkeypatch, ("127.0.0.2", address[1]), address)
    connection = handler.create_connection(
        (name, address[1]), timeout=2 * CONNECT_TIMEOUT
    )
    with connection:
        assert connection.recv(10) == b"second"


def test_all_addresses_fail(
    handler: Any, monkeypatch: pytest.MonkeyPatch, closed: Address
) -> None:
    name = names(monkeypatch, ("127.0.0.2", closed[1]), closed)
    with pytest.raises(ConnectionRefusedError):
        handler.create_connection((name, closed[1]), timeout=TIMEOUT)


def test_ipv6(handler: Any) -> None:
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no ::1 here")
    with server:
        address = server.getsockname()[:2]
        with handler.create_connection(address, timeout=TIMEOUT) as connection:
            assert connection.getpeername()[:2] == address


@pytest.mark.stock_fails("the message does not say which address")
def test_ipv6_closed_port(handler: Any) -> None:
    with pytest.raises(OSError, match="::1"):
        handler.create_connection(("::1", 1), timeout=TIMEOUT)


# -- the deadline --------------------------------------------------------------------


def drip(sock: socket.socket) -> None:
    """Send a TLS record, byte by byte; it takes as long as all tests may."""
    sock.sendall(b"\x16\x03\x03\x40\x00")
    for _ in range(int(TIMEOUT / 0.05)):
        sock.sendall(b"\0")
        time.sleep(0.05)


@pytest.mark.stock_fails("has a limit for each byte, and none for all")
def test_deadline_of_a_handshake(handler: Any, stack: ExitStack) -> None:
    address = serve(stack, drip)
    began = time.monotonic()
    with pytest.raises(OSError, match=f"127.0.0.1:{address[1]}"):
        handler.create_connection(address, timeout=CONNECT_TIMEOUT, use_ssl=True)

    assert time.monotonic() - began < SOON


@pytest.mark.stock_fails("the message does not say which address")
def test_handshake_with_a_silent_server(handler: Any, silent: Address) -> None:
    began = time.monotonic()
    with pytest.raises(OSError, match=f"127.0.0.1:{silent[1]}") as error:
        handler.create_connection(silent, timeout=CONNECT_TIMEOUT, use_ssl=True)

    assert time.monotonic() - began < SOON
    assert error.value.errno == errno.ETIMEDOUT


@pytest.mark.stock_fails("the name service has no limit")
def test_deadline_of_a_name(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        answered.wait(TIMEOUT)
        raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    began = time.monotonic()
    try:
        with pytest.raises(OSError, match=r"slow\.example:2181") as error:
            handler.create_connection(("slow.example", 2181), timeout=CONNECT_TIMEOUT)
        assert time.monotonic() - began < SOON
        assert error.value.errno == errno.ETIMEDOUT
    finally:
        answered.set()


@pytest.mark.stock_fails("the limit begins anew with each phase")
def test_one_deadline_for_name_and_tls(
    handler: Any, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    hello, real = threading.Event(), socket.getaddrinfo
    name_takes, limit = 1.5, 2.5

    def say_nothing(sock: socket.socket) -> None:
        sock.recv(1)
        hello.set()  # the client has begun to shake hands
        while sock.recv(4096):
            pass

    def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        threading.Event().wait(name_takes)
        return real(*args, **kwargs)

    address = serve(stack, say_nothing)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    began = time.monotonic()
    with pytest.raises(OSError):
        handler.create_connection(
            ("localhost", address[1]), timeout=limit, use_ssl=True
        )
    took = time.monotonic() - began

    assert hello.is_set()
    assert took >= name_takes
    assert took < limit + 0.7 * name_takes  # a second limit for TLS: 1.0 of it


option = pytest.mark.stock_fails("has no such option")


@option
def test_connect_timeout(handler_class: Any, dead: Address) -> None:
    handler = handler_class(connect_timeout=CONNECT_TIMEOUT)
    began = time.monotonic()
    with pytest.raises(OSError, match=f"127.0.0.1:{dead[1]}"):
        handler.create_connection(dead, timeout=60)

    assert time.monotonic() - began < SOON


@option
def test_client_with_a_dead_host(
    make_client: MakeClient, handler_class: Any, hosts: str, dead: Address
) -> None:
    client = make_client(
        hosts=f"127.0.0.1:{dead[1]},{hosts}",
        handler=handler_class(connect_timeout=CONNECT_TIMEOUT),
        timeout=60,
        randomize_hosts=False,
    )
    client.start(TIMEOUT)
    assert client.get_children("/") == []


@option
def test_pinger_has_a_timeout(
    handler_class: Any, dead: Address, silent: Address
) -> None:
    """kazoo's pinger gives none."""
    handler = handler_class(connect_timeout=CONNECT_TIMEOUT)
    began = time.monotonic()
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        handler.create_connection(dead)
    with handler.create_connection(silent) as connection:
        connection.sendall(b"isro")
        with pytest.raises(socket.timeout):
            connection.recv(8192)

    assert time.monotonic() - began < 2 * SOON


@pytest.mark.stock_fails("waits for ever")
def test_pinger_has_a_timeout_by_default(handler: Any, silent: Address) -> None:
    with handler.create_connection(silent) as connection:
        assert 0 < connection.gettimeout() <= 30


@pytest.mark.parametrize("use_ssl", [False, True])
def test_start_with_a_silent_server(
    make_client: MakeClient, silent: Address, use_ssl: bool
) -> None:
    client = make_client(hosts=f"127.0.0.1:{silent[1]}", use_ssl=use_ssl, timeout=1.0)
    with pytest.raises(client.handler.timeout_exception):
        client.start(timeout=1.0)
    assert not client.connected


# -- options of the socket -----------------------------------------------------------


def test_keepalive(silent: Address, stack: ExitStack) -> None:
    def connect(value: Any) -> Any:
        handler = SequentialThreadingHandler(tcp_keepalive=value)
        return stack.enter_context(handler.create_connection(silent, timeout=TIMEOUT))

    level, on = socket.SOL_SOCKET, socket.SO_KEEPALIVE
    assert not connect(False).getsockopt(level, on)
    assert connect(True).getsockopt(level, on)
    connection = connect((30, 5, 3))
    assert connection.getsockopt(level, on)
    for name, value in (("KEEPIDLE", 30), ("KEEPINTVL", 5), ("KEEPCNT", 3)):
        if hasattr(socket, f"TCP_{name}"):
            number = getattr(socket, f"TCP_{name}")
            assert connection.getsockopt(socket.IPPROTO_TCP, number) == value


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="it has no such name")
def test_keepalive_as_macos_names_it(
    silent: Address, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = socket.TCP_KEEPIDLE
    monkeypatch.delattr(socket, "TCP_KEEPIDLE")
    monkeypatch.setattr(socket, "TCP_KEEPALIVE", number, raising=False)
    handler = SequentialThreadingHandler(tcp_keepalive=(30, 5, 3))
    connection = stack.enter_context(handler.create_connection(silent, timeout=TIMEOUT))

    assert connection.getsockopt(socket.IPPROTO_TCP, number) == 30


# -- TLS -----------------------------------------------------------------------------


@pytest.mark.parametrize("hostname", ["zoo.example", "127.0.0.1"])
def test_host_name_is_checked(handler: Any, tls: Any, ca: str, hostname: str) -> None:
    connection = handler.create_connection(
        tls.address,
        hostname=hostname,
        timeout=TIMEOUT,
        use_ssl=True,
        ca=ca,
        check_hostname=True,
    )
    with connection:
        assert connection.recv(10) == b"hello"
        assert tls_of(connection).version() in ("TLSv1.2", "TLSv1.3")
    if hostname == "zoo.example":
        assert tls.names == ["zoo.example"]  # server name indication


def test_wrong_host_name(handler: Any, tls: Any, ca: str) -> None:
    def connect(check_hostname: bool) -> Any:
        return handler.create_connection(
            tls.address,
            hostname="other.example",
            timeout=TIMEOUT,
            use_ssl=True,
            ca=ca,
            check_hostname=check_hostname,
        )

    with pytest.raises(ssl.SSLCertVerificationError, match=r"other\.example"):
        connect(True)
    connect(False).close()


@pytest.mark.stock_fails("the message does not say which address")
def test_untrusted_certificate(handler: Any, tls: Any) -> None:
    where = f"127.0.0.1:{tls.address[1]}"
    with pytest.raises(ssl.SSLCertVerificationError, match=where):
        handler.create_connection(tls.address, timeout=TIMEOUT, use_ssl=True)
    handler.create_connection(
        tls.address, timeout=TIMEOUT, use_ssl=True, verify_certs=False
    ).close()


@pytest.mark.stock_fails("the message does not say which address")
def test_server_without_tls(handler: Any, stack: ExitStack) -> None:
    address = serve(stack, lambda sock: sock.sendall(b"no TLS here\r\n" * 10))
    with pytest.raises(ssl.SSLError, match=f"127.0.0.1:{address[1]}"):
        handler.create_connection(address, timeout=TIMEOUT, use_ssl=True)


def test_minimum_version(handler: Any, tls: Any, ca: str) -> None:
    with handler.create_connection(
        tls.address, timeout=TIMEOUT, use_ssl=True, ca=ca
    ) as connection:
        assert tls_of(connection).context.minimum_version == ssl.TLSVersion.TLSv1_2


@option
def test_own_context(
    make_client: MakeClient, handler_class: Any, tls_server: ZooKeeper
) -> None:
    assert tls_server.tls is not None
    context = ssl.create_default_context(cafile=tls_server.tls.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    client = make_client(
        hosts=tls_server.tls_hosts,
        use_ssl=True,
        handler=handler_class(ssl_context=context),
    )
    client.start(TIMEOUT)
    assert client.exists("/") is not None
    connection = client._connection._socket

    assert tls_of(connection).version() == "TLSv1.3"
    assert tls_of(connection).context is context


def test_context_is_cached_until_a_file_changes(
    handler: Any, authority: trustme.CA, tls: Any, ca: str, tmp_path: Path
) -> None:
    def connect() -> Any:
        return handler.create_connection(
            tls.address, timeout=TIMEOUT, use_ssl=True, ca=ca
        )

    def replace(authority: str) -> None:
        shutil.copy(authority, tmp_path / "new.pem")
        os.replace(tmp_path / "new.pem", ca)

    right, wrong = tmp_path / "right.pem", tmp_path / "wrong.pem"
    shutil.copy(ca, right)
    type(authority)().cert_pem.write_to_path(str(wrong))
    connect().close()
    replace(str(wrong))
    with pytest.raises(ssl.SSLCertVerificationError):
        connect()
    replace(str(right))
    connect().close()


@pytest.mark.parametrize("first", ["certificate", "key"])
def test_client_certificate_is_read_again_when_it_changes(
    handler: Any,
    authority: trustme.CA,
    ca: str,
    stack: ExitStack,
    tmp_path: Path,
    first: str,
) -> None:
    serial_numbers: list[int] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def note_client(sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT)
        with context.wrap_socket(sock, server_side=True) as wrapped:
            certificate: Any = wrapped.getpeercert()
            serial_numbers.append(int(certificate["serialNumber"], 16))
            wrapped.sendall(b"hello")
            wrapped.recv(1)

    def replace(file: Path, pem: bytes) -> None:
        new = tmp_path / "new.pem"
        new.write_bytes(pem)
        os.replace(new, file)

    def connect() -> None:
        connection = handler.create_connection(
            address,
            timeout=TIMEOUT,
            use_ssl=True,
            ca=ca,
            certfile=str(certfile),
            keyfile=str(keyfile),
        )
        with connection:
            assert connection.recv(10) == b"hello"

    address = serve(stack, note_client)
    certfile, keyfile = tmp_path / "client.pem", tmp_path / "client.key"
    leaves = [authority.issue_cert("client@example.org") for _ in range(3)]
    for leaf in leaves:
        changes = [
            (certfile, leaf.cert_chain_pems[0].bytes()),
            (keyfile, leaf.private_key_pem.bytes()),
        ]
        if first == "key":
            changes.reverse()
        replace(*changes[0])
        with pytest.raises(OSError):  # in between, the two do not match
            connect()
        replace(*changes[1])
        connect()
        connect()
    expected = [serial_number(leaf) for leaf in leaves for _ in range(2)]

    assert serial_numbers == expected


def serial_number(leaf: trustme.LeafCert) -> int:
    from cryptography import x509

    return x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()).serial_number


@pytest.mark.stock_fails("makes a context for every connection")
def test_context_is_cached(handler: Any, tls: Any, ca: str) -> None:
    contexts = set()
    for _ in range(3):
        connection = handler.create_connection(
            tls.address, timeout=TIMEOUT, use_ssl=True, ca=ca
        )
        with connection:
            contexts.add(tls_of(connection).context)
    assert len(contexts) == 1


@pytest.mark.stock_fails("kazoo gives the port as the host's name")
@pytest.mark.parametrize("check_hostname", [False, True])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_command_over_tls(
    make_client: MakeClient, tls_server: ZooKeeper, host: str, check_hostname: bool
) -> None:
    assert tls_server.tls is not None
    options: dict[str, Any] = {"check_hostname": True} if check_hostname else {}
    if not options.keys() <= inspect.signature(KazooClient).parameters.keys():
        pytest.skip("this kazoo has no such option")
    client = make_client(
        hosts=tls_server.tls_hosts.replace("127.0.0.1", host),
        use_ssl=True,
        ca=tls_server.tls.ca,
        **options,
    )
    client.start(TIMEOUT)

    assert client.command(b"ruok") == "imok"
    assert client.server_version() >= (3, 4)
    assert client.exists("/") is not None


def test_command(client: Any) -> None:
    assert client.command(b"ruok") == "imok"
    assert client.server_version() >= (3, 4)


def test_client_certificate(make_client: MakeClient, tmp_path: Path) -> None:
    tls = make_tls(tmp_path, client_auth=True)
    with ZooKeeper(tls=tls) as zookeeper:
        client = make_client(
            hosts=zookeeper.tls_hosts,
            use_ssl=True,
            ca=tls.ca,
            certfile=tls.client_cert,
            keyfile=tls.client_key,
        )
        client.start(TIMEOUT)
        assert client.exists("/") is not None
        client.stop()
        stranger = make_client(hosts=zookeeper.tls_hosts, use_ssl=True, ca=tls.ca)
        with pytest.raises(stranger.handler.timeout_exception):
            stranger.start(timeout=2.0)


# -- nothing is left open ------------------------------------------------------------


@pytest.mark.stock_fails("leaves sockets to the garbage collector")
@pytest.mark.parametrize("failure", ["refused", "silent", "garbage", "untrusted"])
def test_no_descriptor_is_left(
    handler: Any,
    failure: str,
    closed: Address,
    silent: Address,
    tls: Any,
    stack: ExitStack,
) -> None:
    garbage = serve(stack, lambda sock: sock.sendall(b"garbage" * 100))
    addresses = {
        "refused": closed,
        "silent": silent,
        "garbage": garbage,
        "untrusted": tls.address,
    }
    errors = []  # which hold the frames, and so the sockets
    before = set(descriptors())
    for _ in range(10):
        with pytest.raises(OSError) as caught:
            handler.create_connection(
                addresses[failure],
                timeout=0.05 if failure == "silent" else TIMEOUT,
                use_ssl=True,
            )
        errors.append(caught.value)
    # The servers' ends go when they have noticed.
    wait_until(lambda: set(descriptors()) <= before)

    assert len(errors) == 10


# -- bad input -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"address": "127.0.0.1:2181"}, TypeError),
        ({"address": None}, TypeError),
        ({"address": ("127.0.0.1",)}, TypeError),
        ({"timeout": -1}, ValueError),
        ({"timeout": "soon"}, TypeError),
        ({"use_ssl": True, "ca": "/no/such/file"}, FileNotFoundError),
        ({"use_ssl": True, "certfile": __file__, "keyfile": __file__}, ssl.SSLError),
        (
            {"use_ssl": True, "check_hostname": True, "verify_certs": False},
            ValueError,
        ),
    ],
)
def test_nonsense(silent: Address, arguments: Any, error: type[Exception]) -> None:
    handler = SequentialThreadingHandler()
    with pytest.raises(error):
        handler.create_connection(**{"address": silent, "timeout": 1, **arguments})


# -- reconnecting --------------------------------------------------------------------


@pytest.mark.stock_fails("a closed socket kills the connection thread")
@pytest.mark.parametrize("use_ssl", [False, True])
def test_closing_the_socket_reconnects_at_once(
    make_client: MakeClient, tls_server: ZooKeeper, use_ssl: bool
) -> None:
    assert tls_server.tls is not None
    client = make_client(
        hosts=tls_server.tls_hosts if use_ssl else tls_server.hosts,
        use_ssl=use_ssl,
        ca=tls_server.tls.ca,
        timeout=60.0,  # so that no time-out helps
    )
    client.start(TIMEOUT)
    session = client.client_id
    states: list[str] = []
    client.add_listener(states.append)
    for number in range(1, 11):
        client._connection._socket.close()
        wait_until(lambda number=number: len(states) == 2 * number)  # type: ignore[misc]

    assert states == ["SUSPENDED", "CONNECTED"] * 10
    assert client.client_id == session
    assert client.exists("/") is not None


# -- a subclass, as Patroni has one --------------------------------------------------


class Subclass(SequentialThreadingHandler):
    """Has a constructor of its own, and overrides with ``*args`` and ``**kwargs``."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.connected: list[Any] = []
        self.selected = 0

    def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        if not args:
            kwargs["timeout"] = min(self.limit, kwargs["timeout"])
        connection = super().create_connection(*args, **kwargs)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.connected.append(kwargs.get("address"))
        return connection

    def select(self, *args: Any, **kwargs: Any) -> Any:
        self.selected += 1
        try:
            return super().select(*args, **kwargs)
        except ValueError as error:
            raise OSError(errno.EBADF, str(error)) from error


def test_subclass(make_client: MakeClient) -> None:
    handler = Subclass(5.0)
    client = make_client(handler=handler, timeout=60.0)
    client.start(TIMEOUT)
    assert client.create("/a/b", b"1", makepath=True) == "/a/b"
    assert client.get("/a/b")[0] == b"1"
    session = client.client_id
    states: list[str] = []
    client.add_listener(states.append)
    client._connection._socket.close()
    wait_until(lambda: states == ["SUSPENDED", "CONNECTED"])
    assert client.get("/a/b")[0] == b"1"
    assert client.client_id == session
    assert len(handler.connected) == 2
    assert handler.selected > 3
    connection = client._connection._socket

    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert client.command(b"ruok") == "imok"


# -- files ---------------------------------------------------------------------------


@pytest.mark.stock_fails("the message tells neither the file nor the server")
@pytest.mark.parametrize("argument", ["ca", "certfile"])
@pytest.mark.parametrize("exists", [True, False])
def test_file_that_cannot_be_used(
    handler: Any, tmp_path: Path, argument: str, exists: bool
) -> None:
    """The error names the file and the server."""
    path = tmp_path / "some.pem"
    if exists:
        path.write_text("not a certificate")
    options: dict[str, Any] = {"use_ssl": True, argument: str(path)}
    if argument == "certfile":
        options["keyfile"] = str(path)
    with pytest.raises(OSError, match=r"127\.0\.0\.1:2281") as caught:
        handler.create_connection(("127.0.0.1", 2281), timeout=TIMEOUT, **options)

    assert "some.pem" in str(caught.value)


@pytest.mark.parametrize("argument", ["certfile", "keyfile"])
def test_certificate_or_key_alone_is_ignored(
    handler: Any, tls: Any, ca: str, tmp_path: Path, argument: str
) -> None:
    connection = handler.create_connection(
        tls.address,
        timeout=TIMEOUT,
        use_ssl=True,
        ca=ca,
        **{argument: str(tmp_path / "none.pem")},
    )
    with connection:
        assert connection.recv(10) == b"hello"


def test_what_connection_threads_do_is_counted(
    make_client: MakeClient, hosts: str, closed: Address
) -> None:
    handler = SequentialThreadingHandler()
    client = make_client(
        hosts=f"127.0.0.1:{closed[1]},{hosts}", handler=handler, randomize_hosts=False
    )
    client.start(TIMEOUT)
    assert client.command(b"ruok") == "imok"  # over a connection of the caller's
    stats = handler.stats()

    assert (stats.connections_made, stats.connections_failed) == (1, 1)


# -- a connection is a socket --------------------------------------------------------


@pytest.mark.parametrize("use_ssl", [False, True])
def test_methods_of_a_socket(
    handler: Any, tls: Any, ca: str, silent: Address, use_ssl: bool
) -> None:
    address = tls.address if use_ssl else silent
    connection: Any = handler.create_connection(
        address, timeout=TIMEOUT, use_ssl=use_ssl, ca=ca
    )
    assert isinstance(connection, socket.socket) is True
    with connection:
        assert connection.getpeername() == address
        assert TIMEOUT - 1 < connection.gettimeout() <= TIMEOUT
        assert connection.family == socket.AF_INET
        assert connection.type == socket.SOCK_STREAM
        if use_ssl:
            buffer = bytearray(10)
            assert connection.recv_into(buffer) == 5
            assert buffer == b"hello" + bytes(5)
            assert connection.cipher()[0]
            assert connection.getpeercert()["subjectAltName"]

    assert connection.fileno() == -1
