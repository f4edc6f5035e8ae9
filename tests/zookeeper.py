"""Start a private, real ZooKeeper: one server or an ensemble, with TLS if asked.

In a test::

    with ZooKeeper(nodes=3) as zookeeper:
        client = KazooClient(hosts=zookeeper.hosts)
        zookeeper.leader().kill()

From the command line, for anything that reads ``ZOOKEEPER_HOSTS``::

    python tests/zookeeper.py --nodes 3 -- COMMAND ...

It needs an installed ZooKeeper and nothing but the standard library.

Rules:

1. Servers listen on 127.0.0.1 only, and keep everything in one temporary folder.
2. A folder's *janitor*, a shell that was started before the folder was made, waits
   for the end of a pipe that the launching process holds. Then it kills the servers
   and removes the folder. It does so however the launching process ends.
3. Each server leaves its process id in the folder before it runs Java. The janitor
   moves the folder away before it reads them: a server that it does not see then
   does not find its configuration, and ends by itself. One that it sees writes where
   its working directory went, until it is dead: what it writes is named from there.
4. A forked child lets go of the pipe, and never stops its parent's servers.
5. A server counts as ready when it has accepted a session, and only if it is ours:
   another one may have taken the port first. Then new ports are tried.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    # A Ctrl-C ends it without a traceback; the janitor tidies up.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import os
import random
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import weakref
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType, TracebackType

HOST = "127.0.0.1"

NOT_FOUND = """\
{problem}. Install it:
  Debian, Ubuntu: apt-get install libzookeeper-java default-jre-headless
  macOS:          brew install zookeeper
  elsewhere:      install Java, unpack a release of Apache ZooKeeper
                  (https://zookeeper.apache.org/releases.html), and set
                  ZOOKEEPER_HOME to its folder"""

# Debian's zookeeper.jar does not name all that it needs in its manifest.
DEBIAN_JARS = (
    "zookeeper",
    "zookeeper-jute",
    "metrics-core",
    "slf4j-api",
    "slf4j-simple",
    "snappy-java",
    "commons-io",
    "commons-cli",
    "netty-common",
    "netty-buffer",
    "netty-codec",
    "netty-handler",
    "netty-resolver",
    "netty-transport",
    "netty-transport-native-epoll",
    "netty-transport-native-unix-common",
)

HOMEBREW = ("opt/homebrew", "usr/local", "home/linuxbrew/.linuxbrew")

JVM_FLAGS = (
    "-Xmx128m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Dreadonlymode.enabled=true",
)

# Of the frameworks for logging, log4j 1 logs nothing without a configuration.
LOGGING = """
log4j.rootLogger=INFO, console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.SimpleLayout
"""

CONFIG = {
    "tickTime": "500",
    "minSessionTimeout": "500",
    "maxSessionTimeout": "60000",
    "maxClientCnxns": "0",
    "forceSync": "no",
    "admin.enableServer": "false",
    "4lw.commands.whitelist": "*",
}

ENSEMBLE_CONFIG = {"initLimit": "20", "syncLimit": "10"}

# Without the last three, a 3.8 server speaks TLS 1.2 only.
TLS_CONFIG = {
    "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
    "ssl.keyStore.type": "PEM",
    "ssl.trustStore.type": "PEM",
    "ssl.hostnameVerification": "false",
    "ssl.protocol": "TLSv1.3",
    "ssl.enabledProtocols": "TLSv1.3,TLSv1.2",
    "ssl.ciphersuites": ",".join(
        [
            "TLS_AES_128_GCM_SHA256",
            "TLS_AES_256_GCM_SHA384",
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        ]
    ),
}

SERVER = 'echo $$ > "$0" && exec "$@"'

JANITOR = """
read -r _
mv "$0" "$0.gone"
for pid in "$0.gone"/*/pid; do kill -9 "$(cat "$pid")"; done
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf "$0.gone" && break  # who dies may still write there
    sleep 1
done
"""


class ZooKeeperError(Exception):
    """A server did not start, or did not do what it was told in time."""


class ZooKeeperNotFound(ZooKeeperError):
    """No ZooKeeper, or no Java, is installed."""


class PortTaken(ZooKeeperError):
    """Another process was faster to listen on a port that had been free."""


def find_zookeeper(root: str | Path = "/") -> str:
    """Return the class path of the installed ZooKeeper.

    It is looked for in ``ZOOKEEPER_HOME``, then where Debian and Ubuntu, then where
    Homebrew put it, below *root*.

    :raises ZooKeeperNotFound: with a message that tells what to install.
    """
    root = Path(root)
    home = os.environ.get("ZOOKEEPER_HOME")
    if home:
        if not _is_release(Path(home)):
            problem = f"ZOOKEEPER_HOME={home} holds no ZooKeeper release"
            raise ZooKeeperNotFound(NOT_FOUND.format(problem=problem))
        return _class_path(Path(home), Path(home, "conf"))
    debian = root / "usr/share/java"
    if (debian / "zookeeper.jar").exists():
        return os.pathsep.join(str(debian / f"{jar}.jar") for jar in DEBIAN_JARS)
    for prefix in (root / folder for folder in HOMEBREW):
        if _is_release(prefix / "opt/zookeeper/libexec"):
            return _class_path(
                prefix / "opt/zookeeper/libexec", prefix / "etc/zookeeper"
            )
    raise ZooKeeperNotFound(NOT_FOUND.format(problem="No ZooKeeper is installed"))


def find_java(root: str | Path = "/") -> str:
    """Return the Java to run: ``JAVA_HOME``'s, Homebrew's, or the one in ``PATH``.

    :raises ZooKeeperNotFound: with a message that tells what to install.
    """
    home = os.environ.get("JAVA_HOME")
    if home:
        java = shutil.which(f"{home}/bin/java")
        problem = f"JAVA_HOME={home} holds no Java"
    else:
        # Homebrew's first: macOS has a java in PATH that only says it is none.
        brewed = (f"{root}/{prefix}/opt/openjdk/bin/java" for prefix in HOMEBREW)
        java = next(filter(None, map(shutil.which, brewed)), shutil.which("java"))
        problem = "ZooKeeper needs Java, and there is none"
    if java is None:
        raise ZooKeeperNotFound(NOT_FOUND.format(problem=problem))
    return java


def _is_release(home: Path) -> bool:
    return any(home.glob("zookeeper*.jar")) or any(home.glob("lib/zookeeper*.jar"))


def _class_path(home: Path, conf: Path) -> str:
    # The configuration folder is for the logging framework.
    return os.pathsep.join(map(str, (conf, home / "*", home / "lib" / "*")))


@dataclass(frozen=True)
class TLS:
    """The certificates of a server and of its client, as paths of PEM files."""

    ca: str
    server_pem: str
    client_cert: str
    client_key: str
    client_auth: bool = False

    @classmethod
    def create(cls, folder: str | Path, client_auth: bool = False) -> TLS:
        """Make an authority, a server's and a client's certificate in *folder*.

        :param client_auth: the server refuses clients without a certificate.
        """
        import trustme
        from cryptography.hazmat.primitives import serialization as pem

        def pkcs8(key: bytes) -> bytes:  # the only form that ZooKeeper reads
            return pem.load_pem_private_key(key, password=None).private_bytes(
                pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()
            )

        def write(name: str, *parts: bytes) -> str:
            path = Path(folder, name)
            path.write_bytes(b"".join(parts))
            return str(path)

        authority = trustme.CA()
        server = authority.issue_cert(HOST, "localhost")
        client = authority.issue_cert("client@example.org")
        return cls(
            ca=write("ca.pem", authority.cert_pem.bytes()),
            server_pem=write(
                "server.pem",
                pkcs8(server.private_key_pem.bytes()),
                *(cert.bytes() for cert in server.cert_chain_pems),
            ),
            client_cert=write(
                "client.pem", *(cert.bytes() for cert in client.cert_chain_pems)
            ),
            client_key=write("client.key", pkcs8(client.private_key_pem.bytes())),
            client_auth=client_auth,
        )


class Node:
    """One server process. It keeps its ports and its data when it is restarted."""

    host = HOST

    def __init__(
        self, folder: Path, port: int, tls_port: int | None, command: Sequence[str]
    ) -> None:
        self.port = port
        self.tls_port = tls_port
        self.address = f"{HOST}:{port}"
        self._folder = folder
        self._command = [*command, str(folder / "zoo.cfg")]
        self._process: subprocess.Popen[bytes] | None = None
        self._suspended = False
        self._launched_at = 0  # where in the log the last launch begins

    def __repr__(self) -> str:
        return f"<Node {self.address} pid={self.pid}>"

    @property
    def pid(self) -> int | None:
        """The process id, ``None`` where no process runs."""
        return self._process.pid if self._process and self.alive else None

    @property
    def alive(self) -> bool:
        """Whether the process runs, or is suspended."""
        return self._process is not None and self._process.poll() is None

    @property
    def suspended(self) -> bool:
        """Whether the process was stopped with :meth:`suspend`."""
        return self._suspended and self.alive

    def start(self, timeout: float = 30.0) -> None:
        """Start the server; return when it has accepted a session.

        In an ensemble that takes a quorum: :meth:`launch` the first servers.
        """
        self.launch()
        self.wait_ready(timeout)

    def launch(self) -> None:
        """Start the process and do not wait for the server."""
        if self.alive:
            raise ZooKeeperError(f"{self!r} is running")
        options = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
        self._suspended = False
        with open(self._folder / "log", "ab") as log:
            self._launched_at = log.tell()
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", SERVER, str(self._folder / "pid"), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={k: v for k, v in os.environ.items() if k not in options},
                start_new_session=True,  # a Ctrl-C is for the tests, not for it
            )

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until the server has accepted a session.

        :raises ZooKeeperError: with the server's log, if it does not in time.
        """
        deadline = time.monotonic() + timeout
        patience = 0.1
        while True:
            try:
                if self._is_serving(patience):
                    return
            except socket.timeout:
                # A server that is asked too early never answers: ask again, and
                # leave a slow machine more time.
                patience = min(patience * 1.5, 5.0)
            except OSError:
                pass
            if "Address already in use" in self._log_of_launch():
                raise PortTaken(self._report("found a port taken"))
            if not self.alive:
                raise ZooKeeperError(self._report("does not run"))
            if time.monotonic() > deadline:
                raise ZooKeeperError(self._report(f"is not ready after {timeout} s"))
            time.sleep(0.02)

    def stop(self, timeout: float = 10.0) -> None:
        """Ask the process to end, and kill it if it does not."""
        if self._process is not None and self.alive:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """Kill the process with ``SIGKILL``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            with suppress(FileNotFoundError):
                (self._folder / "pid").unlink()

    def suspend(self) -> None:
        """Stop the process with ``SIGSTOP``: it hangs, its connections stay."""
        self._signal(signal.SIGSTOP)
        if self._process is not None:  # its threads stop one after the other
            os.waitpid(self._process.pid, os.WUNTRACED)  # PyPy has no waitid()
        self._suspended = True

    def resume(self) -> None:
        """Let a suspended process go on."""
        self._signal(signal.SIGCONT)
        self._suspended = False

    def mode(self) -> str:
        """Return "leader", "follower", "standalone" or "read-only".

        It is "" where the server does not answer, or does not serve.
        """
        if self.alive and not self._suspended:
            with suppress(OSError):
                for line in self._ask("srvr", timeout=2.0).splitlines():
                    if line.startswith("Mode: "):
                        return line[len("Mode: ") :]
        return ""

    def log(self) -> str:
        """Return what the server has logged since it was first started."""
        return self._read_log(0)

    def _log_of_launch(self) -> str:
        return self._read_log(self._launched_at)

    def _read_log(self, start: int) -> str:
        try:
            with open(self._folder / "log", "rb") as log:
                log.seek(start)
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _report(self, problem: str) -> str:
        end = "\n".join(self._log_of_launch().splitlines()[-40:])
        return f"The ZooKeeper server {self.address} {problem}. Its log:\n{end}"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or not self.alive:
            raise ZooKeeperError(f"{self!r} is not running")
        self._process.send_signal(number)

    def _is_serving(self, timeout: float) -> bool:
        if f"dataDir={self._folder}" not in self._ask("conf", timeout):
            return False
        if self.tls_port is not None:
            socket.create_connection((HOST, self.tls_port), timeout).close()
        return self._accepts_session(timeout)

    def _ask(self, word: str, timeout: float) -> str:
        with socket.create_connection((HOST, self.port), timeout) as connection:
            connection.sendall(word.encode())
            with connection.makefile() as answer:
                return answer.read()

    def _accepts_session(self, timeout: float) -> bool:
        # Frames start with their length. The request: protocol version, last zxid
        # seen, session timeout, session id, password, read-only.
        connect = struct.pack(">iiqiqi16s?", 45, 0, 0, 4000, 0, 16, b"", False)
        close = struct.pack(">iii", 8, 1, -11)
        with socket.create_connection((HOST, self.port), timeout) as connection:
            connection.sendall(connect)
            with connection.makefile("rb") as reply:
                head = reply.read(12)  # length, protocol version, session timeout
                if len(head) < 12 or struct.unpack(">iii", head)[2] <= 0:
                    return False
                connection.sendall(close)
                reply.read()
        return True


class ZooKeeper:
    """A private ZooKeeper, usable as a context manager.

    :param nodes: how many servers: 1, or 3 for an ensemble that survives the loss
        of one.
    :param tls: the certificates, to have a TLS port besides the plain one.
    :param config: lines for every server's configuration. Keys that start with
        ``-D`` are Java's system properties.
    """

    def __init__(
        self,
        nodes: int = 1,
        *,
        tls: TLS | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        if nodes < 1:
            raise ValueError(f"a ZooKeeper has at least one node, not {nodes}")
        self.tls = tls
        self.nodes: list[Node] = []
        self._size = nodes
        self._config = dict(config or {})
        self._janitor: subprocess.Popen[bytes] | None = None
        self._reserved: list[socket.socket] = []
        self._owner = 0

    def __repr__(self) -> str:
        return f"<ZooKeeper {self.hosts or 'stopped'}>"

    def __enter__(self) -> ZooKeeper:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def hosts(self) -> str:
        """The connect string, as ``KazooClient`` takes it."""
        return ",".join(node.address for node in self.nodes)

    @property
    def tls_hosts(self) -> str:
        """The connect string of the TLS ports."""
        if self.tls is None:
            raise ZooKeeperError(f"{self!r} has no TLS")
        return ",".join(f"{HOST}:{node.tls_port}" for node in self.nodes)

    def start(self) -> None:
        """Start all servers; return when each has accepted a session."""
        if self._janitor is not None:
            raise ZooKeeperError(f"{self!r} is running")
        for attempt in reversed(range(5)):
            try:
                self._start()
                return
            except PortTaken:
                self.stop()
                if not attempt:
                    raise
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Kill all servers and remove everything that they have written."""
        if self._janitor is None or self._owner != os.getpid():
            return
        for node in self.nodes:
            node.kill()
        self._let_go()
        self._janitor.wait(30.0)
        self._janitor = None
        self.nodes = []

    def restore(self) -> None:
        """Resume the suspended servers, start the dead ones, wait for all."""
        for node in self.nodes:
            if node.suspended:
                node.resume()
            elif not node.alive:
                node.launch()
        for node in self.nodes:
            node.wait_ready()

    def leader(self, timeout: float = 20.0) -> Node:
        """Return the leader, or the only server; wait while there is none."""
        deadline = time.monotonic() + timeout
        while True:
            for node in self.nodes:
                if node.mode() in ("leader", "standalone"):
                    return node
            if time.monotonic() > deadline:
                raise ZooKeeperError(f"{self!r} has no leader after {timeout} s")
            time.sleep(0.02)

    def followers(self) -> list[Node]:
        """Return the servers that follow a leader now."""
        return [node for node in self.nodes if node.mode() == "follower"]

    def _start(self) -> None:
        class_path = find_zookeeper()
        java = find_java()
        folder = Path(tempfile.gettempdir(), f"zookeeper-{secrets.token_hex(8)}")
        self._owner = os.getpid()
        self._janitor = subprocess.Popen(
            ["/bin/sh", "-c", JANITOR, str(folder)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        _started.add(self)
        folder.mkdir(mode=0o700)
        logging = folder / "log4j.properties"
        logging.write_text(LOGGING)
        flags = [*JVM_FLAGS, f"-Djava.io.tmpdir={folder}"]
        flags += [f"-Dlog4j.configuration={logging.as_uri()}", "-Dlog4j2.level=INFO"]
        flags += [f"{k}={v}" for k, v in self._config.items() if k.startswith("-")]
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        self._make_nodes(folder, [java, *flags, "-cp", class_path, main])
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_ready()

    def _make_nodes(self, folder: Path, command: Sequence[str]) -> None:
        self._reserved = _reserve_ports(4 * self._size)
        ports: list[int] = [udp.getsockname()[1] for udp in self._reserved]
        config = dict(CONFIG)
        if self._size > 1:
            config.update(ENSEMBLE_CONFIG)
            for number in range(1, self._size + 1):
                config[f"server.{number}"] = f"{HOST}:{ports.pop()}:{ports.pop()}"
        if self.tls is not None:
            config.update(TLS_CONFIG)
            config["ssl.keyStore.location"] = self.tls.server_pem
            config["ssl.trustStore.location"] = self.tls.ca
            config["ssl.clientAuth"] = "need" if self.tls.client_auth else "none"
        self.nodes = []
        for number in range(1, self._size + 1):
            home = folder / str(number)
            port, tls_port = ports.pop(), ports.pop() if self.tls else None
            own = {
                "dataDir": "./.",  # it cannot read "."
                "clientPort": str(port),
                "clientPortAddress": HOST,
            }
            if tls_port is not None:
                own["secureClientPort"] = str(tls_port)
                own["secureClientPortAddress"] = HOST
            lines = {**config, **own, **self._config}
            home.mkdir()
            home.joinpath("myid").write_text(str(number))
            home.joinpath("zoo.cfg").write_text(
                "".join(f"{k}={v}\n" for k, v in lines.items() if k[0] != "-")
            )
            self.nodes.append(Node(home, port, tls_port, command))

    def _let_go(self) -> None:
        for udp in self._reserved:
            udp.close()
        if self._janitor is not None and self._janitor.stdin is not None:
            self._janitor.stdin.close()


_started: weakref.WeakSet[ZooKeeper] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for zookeeper in _started:
        zookeeper._let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _reserve_ports(count: int) -> list[socket.socket]:
    """Return UDP sockets bound to ports where TCP is free.

    They keep other launchers away from ports on which no server listens yet, or
    none at the moment.
    """
    # Not from bind(0): any client could get such a port before the server binds it.
    end = 32768
    with suppress(OSError):
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        end = min(end, int(text.split()[0]))
    ports = range(10000, end) if end > 12000 else range(10000, 65536)
    with ExitStack() as stack:
        reserved: list[socket.socket] = []
        for port in random.SystemRandom().sample(ports, len(ports)):
            udp = socket.socket(type=socket.SOCK_DGRAM)
            try:
                udp.bind((HOST, port))
                with socket.socket() as tcp:
                    tcp.bind((HOST, port))
            except OSError:
                udp.close()
                continue
            reserved.append(stack.enter_context(udp))
            if len(reserved) == count:
                stack.pop_all()
                return reserved
    raise ZooKeeperError(f"there are no {count} free ports")


def run(command: Sequence[str], hosts: str) -> int:
    """Run *command* with ``ZOOKEEPER_HOSTS``; return its status as a shell does."""
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    def leave(number: int, frame: FrameType | None) -> None:
        """Do nothing: the terminal sends a Ctrl-C to the command too."""

    with ExitStack() as handlers:
        _handle(handlers, signal.SIGINT, leave)
        _handle(handlers, signal.SIGTERM, forward)
        _handle(handlers, signal.SIGHUP, forward)
        try:
            process = subprocess.Popen(
                command, env={**os.environ, "ZOOKEEPER_HOSTS": hosts}
            )
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr)
            return 127 if isinstance(error, FileNotFoundError) else 126
        for number in early:
            process.send_signal(number)
        status = process.wait()
    return status if status >= 0 else 128 - status


def _handle(
    stack: ExitStack,
    number: signal.Signals,
    handler: Callable[[int, FrameType | None], None],
) -> None:
    stack.callback(signal.signal, number, signal.signal(number, handler))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command with a private ZooKeeper."""
    own = list(sys.argv[1:] if arguments is None else arguments)
    command: list[str] = []
    if "--" in own:
        split = own.index("--")
        own, command = own[:split], own[split + 1 :]
    parser = argparse.ArgumentParser(
        description="Start a private ZooKeeper, run COMMAND with its address in "
        "ZOOKEEPER_HOSTS, stop it, and exit with COMMAND's status. "
        "(125: ZooKeeper did not start; 126 and 127: COMMAND did not.)",
        usage="%(prog)s [--nodes N] -- COMMAND ...",
    )
    parser.add_argument(
        "--nodes",
        type=int,
        choices=(1, 3),
        default=1,
        metavar="N",
        help="how many servers, 1 (the default) or 3",
    )
    options = parser.parse_args(own)
    if not command:
        parser.error("COMMAND is missing; it comes after --")
    with ExitStack() as stack:
        try:
            zookeeper = stack.enter_context(ZooKeeper(options.nodes))
        except ZooKeeperError as error:
            print(error, file=sys.stderr)
            return 125
        return run(command, zookeeper.hosts)


if __name__ == "__main__":
    sys.exit(main())
