"""Fixtures of the fault suite: servers to break, and clients under load."""

from __future__ import annotations

import inspect
import logging
import ssl
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable

import pytest

from tests.faults.load import Load, close, handlers, new_client
from tests.faults.proxy import Proxy
from tests.support import make_tls
from tests.zookeeper import HOST, Node, ZooKeeper

if TYPE_CHECKING:
    from collections.abc import Iterator


#: A server keeps its last 500 writes in memory, which are large here.
CONFIG = {"-XX:MaxHeapSize": "512m"}


@dataclass
class Ensemble:
    """Three servers, and how to reach them."""

    zookeeper: ZooKeeper
    handler_class: type[Any]
    tls: bool
    options: dict[str, Any] = field(default_factory=dict)

    def port(self, node: Node) -> int:
        """Return the port of *node* for clients."""
        port = node.tls_port if self.tls else node.port
        assert port is not None
        return port

    @property
    def hosts(self) -> str:
        """The connect string."""
        return self.zookeeper.tls_hosts if self.tls else self.zookeeper.hosts

    def restore(self) -> None:
        """Bring back the servers that the test before has killed."""
        self.zookeeper.restore()

    def hosts_from(self, first: Node) -> str:
        """Return the connect string with *first* in front."""
        nodes = sorted(self.zookeeper.nodes, key=lambda node: node is not first)
        return ",".join(f"{HOST}:{self.port(node)}" for node in nodes)

    def load(self, hosts: str = "", **arguments: Any) -> Load:
        """Return clients under load, connected to *hosts*, by default all servers."""
        options = {**self.options, **arguments.pop("options", {})}
        return Load(
            self.handler_class,
            hosts or self.hosts,
            self.zookeeper.hosts,
            options=options,
            **arguments,
        )

    def client(self, hosts: str = "", **options: Any) -> Any:
        """Return an unstarted client."""
        options = {**self.options, **options}
        return new_client(self.handler_class, hosts or self.hosts, **options)


@pytest.fixture(autouse=True)
def scenario(request: pytest.FixtureRequest, record_property: Any) -> None:
    """Leave in the report what the test is about, for ``compare.py``."""
    text = inspect.getdoc(request.function) or request.node.name
    record_property("scenario", text.partition("\n")[0].rstrip("."))
    marker = request.node.get_closest_marker("causes")
    record_property(
        "causes", "" if marker is None else ", ".join(marker.args) or "none"
    )


@pytest.fixture(autouse=True)
def causes(request: pytest.FixtureRequest, stock: bool) -> Iterator[None]:
    """Compare why connections were lost with what the test is marked with.

    ``causes("closed", "reset", also=("silent",))``: for one of the first at least, and
    for nothing else, but perhaps for those in *also*. Without arguments none is lost.
    """
    marker = request.node.get_closest_marker("causes")
    handlers.clear()
    yield
    found = Counter[str]()
    if not stock:
        for handler in handlers:
            found.update(handler.stats().disconnects_by_cause)
    handlers.clear()
    if marker is None or stock or marker.kwargs.get("in_process"):
        return  # or another process tells
    allowed = {*marker.args, *marker.kwargs.get("also", ())}
    assert found.keys() <= allowed, f"{found}, not only {allowed}"
    assert bool(found.keys() & set(marker.args)) == bool(marker.args), found


@pytest.fixture
def no_log() -> Iterator[None]:
    """Log nothing: what is logged is kept by pytest, with exceptions and frames."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module", params=["tcp", "tls"])
def new_ensemble(
    request: pytest.FixtureRequest,
    handler_class: type[Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[int], Ensemble]]:
    """Return a function that starts servers, to be reached with TCP or with TLS."""
    tls, options = None, {}
    if request.param == "tls":
        tls = make_tls(tmp_path_factory.mktemp("tls"))
        options = {"use_ssl": True, "ca": tls.ca}

    def new(nodes: int) -> Ensemble:
        zookeeper = stack.enter_context(ZooKeeper(nodes, tls=tls, config=CONFIG))
        return Ensemble(zookeeper, handler_class, tls is not None, options)

    with ExitStack() as stack:
        yield new


@pytest.fixture(scope="module")
def ensemble(new_ensemble: Callable[[int], Ensemble]) -> Ensemble:
    """Three servers; all run when a test begins."""
    return new_ensemble(3)


@pytest.fixture(scope="module")
def server(new_ensemble: Callable[[int], Ensemble]) -> Ensemble:
    """One server, which no test breaks."""
    return new_ensemble(1)


class Proxies(list[Proxy]):
    """A proxy before each server."""

    @property
    def hosts(self) -> str:
        return ",".join(proxy.address for proxy in self)

    def up(self, fault: Any) -> None:
        for proxy in self:
            proxy.up = fault

    def down(self, fault: Any) -> None:
        for proxy in self:
            proxy.down = fault

    def cut(self, how: str) -> int:
        return sum(proxy.cut(how) for proxy in self)

    def restore(self) -> None:
        for proxy in self:
            proxy.restore()


@pytest.fixture
def proxies(ensemble: Ensemble) -> Iterator[Proxies]:
    """A proxy before each server."""
    proxies = Proxies()
    try:
        for node in ensemble.zookeeper.nodes:
            proxies.append(Proxy(ensemble.port(node)).__enter__())
        yield proxies
    finally:
        for proxy in proxies:
            proxy.stop()


@pytest.fixture
def proxy(server: Ensemble) -> Iterator[Proxy]:
    """A proxy before the one server."""
    with Proxy(server.port(server.zookeeper.nodes[0])) as proxy:
        yield proxy


@pytest.fixture
def own_tls_proxy(server: Ensemble) -> Iterator[Proxy]:
    """A proxy that sees what it relays: with TLS, it is the client's peer itself."""
    node, tls, context = server.zookeeper.nodes[0], server.zookeeper.tls, None
    if server.tls:
        assert tls is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.server_pem)
    with Proxy(node.port, context) as proxy:
        yield proxy


@pytest.fixture
def connect(server: Ensemble) -> Iterator[Callable[..., Any]]:
    """Return a function that returns a started client of a proxy."""
    clients = []

    def connect(proxy: Proxy, **options: Any) -> Any:
        client = server.client(proxy.address, **{"timeout": 20.0, **options})
        clients.append(client)
        client.start(timeout=30.0)
        return client

    yield connect
    wrong = [close(client) for client in clients]
    assert not any(wrong), wrong
