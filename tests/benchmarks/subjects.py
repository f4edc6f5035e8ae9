"""The two handlers, and clients with them on one server."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoNodeError, NotEmptyError
from kazoo.handlers.threading import SequentialThreadingHandler as KazoosHandler
from kazoo.hosts import collect_hosts

from kazoo_seqthreading import SequentialThreadingHandler
from tests.support import wait_until
from tests.zookeeper import TLS, ZooKeeper

KAZOO, OURS = "kazoo", "ours"
HANDLERS: dict[str, type[Any]] = {
    KAZOO: KazoosHandler,
    OURS: SequentialThreadingHandler,
}

#: The longest that servers grant by default: few heartbeats disturb.
SESSION_TIMEOUT = 40.0
#: What every node holds.
DATA = b"x" * 100


@dataclass
class Site:
    """A server, a node of the benchmark's own on it, and a client per handler."""

    host: str
    port: int
    chroot: str
    path: str
    tls: TLS | None
    clients: dict[str, Any]

    @property
    def hosts(self) -> str:
        """The connect string."""
        return f"{self.host}:{self.port}{self.chroot}"

    def make_client(self, handler: Any) -> Any:
        """Return a client with *handler*, not started."""
        options: dict[str, Any] = {}
        if self.tls is not None:
            options.update(
                use_ssl=True,
                ca=self.tls.ca,
                certfile=self.tls.client_cert,
                keyfile=self.tls.client_key,
            )
        return KazooClient(
            self.hosts, timeout=SESSION_TIMEOUT, handler=handler, **options
        )


@contextmanager
def open_site(tls_folder: str | None = None) -> Iterator[Site]:
    """Use a private server, or the first of ``ZOOKEEPER_HOSTS``.

    :param tls_folder: for certificates; then it is a private server with TLS
    :raises ZooKeeperError: if there is no server
    """
    if tls_folder is not None:
        tls = TLS.create(tls_folder)
        with ZooKeeper(tls=tls) as zookeeper:
            yield from _connected(zookeeper.tls_hosts, tls)
    elif "ZOOKEEPER_HOSTS" in os.environ:
        yield from _connected(os.environ["ZOOKEEPER_HOSTS"], None)
    else:
        with ZooKeeper() as zookeeper:
            yield from _connected(zookeeper.hosts, None)


def _connected(hosts: str, tls: TLS | None) -> Iterator[Site]:
    # One server for all: members of an ensemble differ.
    ((host, port), *_), chroot = collect_hosts(hosts)
    path = f"/benchmark-{secrets.token_hex(4)}"
    site = Site(host, port, (chroot or "").rstrip("/"), path, tls, {})
    try:
        for name, handler_class in HANDLERS.items():
            site.clients[name] = site.make_client(handler_class())
            site.clients[name].start()
        site.clients[OURS].create(path, DATA, makepath=True)
        yield site
    finally:
        _leave(site)


def _leave(site: Site) -> None:
    """Remove the node, and close the clients."""
    others = [client for name, client in site.clients.items() if name != OURS]
    for client in others:
        close(client)
    ours = site.clients.get(OURS)
    if ours is not None:
        with suppress(KazooException, AssertionError):
            if ours.connected:
                wait_until(lambda: _removed(ours, site.path))
        close(ours)


def _removed(client: Any, path: str) -> bool:
    try:
        client.delete(path, recursive=True)
    except NotEmptyError:  # ephemeral nodes of a session that is about to end
        return False
    except NoNodeError:
        pass
    return True


def close(client: Any) -> None:
    """Stop and close a client."""
    client.stop()
    client.close()
