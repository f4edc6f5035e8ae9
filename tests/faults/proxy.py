"""A TCP proxy that does to the bytes what networks do.

::

    with Proxy(node.port) as proxy:
        client = KazooClient(proxy.address)
        proxy.down = Slices(1)

``up`` is what happens to the bytes from client to server, ``down`` to those from
server to client. A fault applies to all connections, from the next chunk on, until
another one takes its place.

Rules:

1. All of it runs in one event loop in one thread. ``up``, ``down`` and the methods may
   be used from any thread; they return when what they ask for is in effect.
2. Nothing is buffered without limit: where one side does not read, the proxy soon
   stops reading from the other.
3. ``stop`` cuts all connections and returns when loop and thread have ended.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

HOST = "127.0.0.1"
CHUNK = 65536
#: The kernel's share of what a peer that does not read leaves lying.
RECEIVE_BUFFER = 32768
#: For the proxy to do what it is told.
TIMEOUT = 10.0

FIN, RST, HALF = "FIN", "RST", "half-close"


class Fault:
    """What happens to the bytes of one direction. By itself: they pass."""

    def __init__(self) -> None:
        #: Set when the fault has done what it does only once.
        self.fired = threading.Event()

    async def relay(self, data: bytes, pipe: Pipe) -> None:
        """Do it to *data*, a chunk as it was received."""
        await pipe.write(data)


class Delay(Fault):
    """Each chunk waits; what arrives meanwhile is joined to one chunk."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def relay(self, data: bytes, pipe: Pipe) -> None:
        await pipe.pause(self, self._seconds)
        await pipe.write(data)


class Lag(Fault):
    """Every chunk arrives so many seconds later, and holds up none behind it."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._tasks: set[asyncio.Task[None]] = set()

    async def relay(self, data: bytes, pipe: Pipe) -> None:
        task = asyncio.ensure_future(self._relay_later(data, pipe))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay_later(self, data: bytes, pipe: Pipe) -> None:
        await asyncio.sleep(self._seconds)
        with suppress(RuntimeError):  # it was closed meanwhile
            await pipe.write(data)


class Slices(Fault):
    """Everything is cut into slices of *size* bytes, each sent on its own.

    :param pause: how long to wait between two of them, in seconds
    """

    def __init__(self, size: int, pause: float = 0.0) -> None:
        super().__init__()
        self._size = size
        self._pause = pause

    async def relay(self, data: bytes, pipe: Pipe) -> None:
        for start in range(0, len(data), self._size):
            if start:
                await pipe.pause(self, self._pause)
            await pipe.write(data[start : start + self._size])


class Split(Slices):
    """Each chunk is cut once, after *offset* bytes."""

    def __init__(self, offset: int, pause: float = 0.002) -> None:
        super().__init__(offset, pause)

    async def relay(self, data: bytes, pipe: Pipe) -> None:
        await super().relay(data[: self._size], pipe)
        if data[self._size :]:
            await pipe.pause(self, self._pause)
            await pipe.write(data[self._size :])


class Throttle(Fault):
    """No more than *rate* bytes a second pass."""

    def __init__(self, rate: int) -> None:
        super().__init__()
        self._rate = rate
        self._size = max(rate // 50, 1)

    async def relay(self, data: bytes, pipe: Pipe) -> None:
        for start in range(0, len(data), self._size):
            piece = data[start : start + self._size]
            await pipe.write(piece)
            await pipe.pause(self, len(piece) / self._rate)


class Stall(Fault):
    """Nothing is read: what the sender has to say stays with it."""

    async def relay(self, data: bytes, pipe: Pipe) -> None:
        while pipe.fault is self:
            await pipe.pause(self, None)
        await pipe.write(data)


class BlackHole(Fault):
    """Everything is read and vanishes; no connection recovers from that."""

    async def relay(self, data: bytes, pipe: Pipe) -> None:
        pipe.lost = True


class Once(Fault):
    """Something that happens once, when *after* bytes have passed."""

    def __init__(self, after: int = 0) -> None:
        super().__init__()
        self._left = after

    async def relay(self, data: bytes, pipe: Pipe) -> None:
        passing = data
        if not self.fired.is_set():
            passing, data = data[: self._left], data[self._left :]
            self._left -= len(passing)
        if passing:
            await pipe.write(passing)
        if not (self.fired.is_set() or self._left):
            self.fired.set()
            await self.happen(data, pipe)

    async def happen(self, rest: bytes, pipe: Pipe) -> None:
        """Do it; *rest* is what comes next of the chunk."""
        raise NotImplementedError


class Cut(Once):
    """The connection is cut, once, when *after* bytes have passed.

    :param how: ``FIN``, ``RST`` or ``HALF`` (only this direction ends)
    """

    def __init__(self, after: int = 0, how: str = FIN) -> None:
        super().__init__(after)
        self._how = how

    async def happen(self, rest: bytes, pipe: Pipe) -> None:
        await pipe.flush()
        pipe.link.cut(self._how, pipe)


class Garbage(Once):
    """Bytes that nobody sent come in between, once, when *after* bytes have passed."""

    def __init__(self, garbage: bytes, after: int = 0) -> None:
        super().__init__(after)
        self._garbage = garbage

    async def happen(self, rest: bytes, pipe: Pipe) -> None:
        await pipe.write(self._garbage + rest)


class Record(Fault):
    """The bytes pass, and are kept, those of each connection apart.

    :param pause: how long to wait after each chunk, in seconds
    """

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__()
        self._pause = pause
        self.streams: dict[Link, bytearray] = {}

    async def relay(self, data: bytes, pipe: Pipe) -> None:
        self.streams.setdefault(pipe.link, bytearray()).extend(data)
        await pipe.write(data)
        await pipe.pause(self, self._pause)


class Pipe:
    """One direction of one connection."""

    def __init__(
        self,
        link: Link,
        way: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.link = link
        self.lost = False  # bytes have vanished: nothing passes any more
        self._way = way
        self._reader = reader
        self._writer = writer

    @property
    def fault(self) -> Fault:
        """What happens in this direction now."""
        proxy = self.link.proxy
        return proxy.up if self._way == "up" else proxy.down

    async def write(self, data: bytes) -> None:
        """Send *data*; wait while the peer does not read."""
        if not self.lost:
            self._writer.write(data)
            await self._writer.drain()

    async def flush(self) -> None:
        """Wait until the kernel has all that was written."""
        transport = self._writer.transport
        while transport.get_write_buffer_size() and not transport.is_closing():
            await asyncio.sleep(0.001)

    async def pause(self, fault: Fault, seconds: float | None) -> None:
        """Wait, but not longer than *fault* applies."""
        if fault is not self.fault:
            return
        if seconds == 0:
            await asyncio.sleep(0)
            return
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.link.proxy._changed.wait(), seconds)

    async def run(self) -> None:
        """Relay until the sender ends or the connection breaks."""
        try:
            while True:
                data = await self._reader.read(CHUNK)
                if not data:
                    break
                await self.fault.relay(data, self)
        except OSError:
            self.link.cut(RST, self)
        else:
            if not (self.lost or isinstance(self.fault, BlackHole)):
                self.link.cut(HALF, self)

    def end(self) -> None:
        """Tell the receiver that nothing more comes."""
        if self._writer.can_write_eof():
            with suppress(OSError):
                self._writer.write_eof()
        else:
            self._writer.close()

    def abort(self, reset: bool) -> None:
        """Close the receiver's end at once, with an RST if wanted."""
        sock = self._writer.get_extra_info("socket")
        if reset and sock is not None:
            linger = struct.pack("ii", 1, 0)
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()


class Link:
    """One connection through the proxy."""

    def __init__(
        self,
        proxy: Proxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.proxy = proxy
        self._up = Pipe(self, "up", client[0], server[1])
        self._down = Pipe(self, "down", server[0], client[1])

    async def run(self) -> None:
        """Relay both ways until both have ended."""
        try:
            await asyncio.gather(self._up.run(), self._down.run())
        finally:
            self.cut(FIN)

    def cut(self, how: str, pipe: Pipe | None = None) -> None:
        """End the connection, or with ``HALF`` the direction of *pipe*."""
        if how == HALF:
            (pipe or self._down).end()
            return
        for one in (self._up, self._down):
            one.abort(how == RST)


class Proxy:
    """A TCP proxy on 127.0.0.1, usable as a context manager.

    :param port: the server's port on 127.0.0.1
    :param tls: to speak TLS with the clients, and plain TCP with the server. Each
        write of a fault is then a record of its own.
    """

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._target = port
        self._tls = tls
        self._up = self._down = Fault()
        self._links: set[Link] = set()
        self._changed: Any = None  # an asyncio.Event, replaced at every change
        self._done: Any = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self.accepted = 0  #: how many connections there were
        self.port = 0

    def __repr__(self) -> str:
        return f"<Proxy {self.port} -> {self._target} up={self._up} down={self._down}>"

    @property
    def address(self) -> str:
        """Where clients connect to, as ``KazooClient`` takes it."""
        return f"{HOST}:{self.port}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        if not self._ready.wait(TIMEOUT):
            raise AssertionError("the proxy did not start")
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Cut all connections and end."""
        if self._loop is not None and self._thread.is_alive():
            with suppress(RuntimeError):  # it ends just now
                self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive(), "the proxy did not stop"

    # -- what it does to the bytes -----------------------------------------------------

    @property
    def up(self) -> Fault:
        """What happens to the bytes from client to server."""
        return self._up

    @up.setter
    def up(self, fault: Fault) -> None:
        self._call(lambda: self._change("_up", fault))

    @property
    def down(self) -> Fault:
        """What happens to the bytes from server to client."""
        return self._down

    @down.setter
    def down(self, fault: Fault) -> None:
        self._call(lambda: self._change("_down", fault))

    def restore(self) -> None:
        """Let all bytes pass."""
        self.up = self.down = Fault()

    def cut(self, how: str = FIN) -> int:
        """Cut all connections that there are now.

        :param how: ``FIN``, ``RST``, or ``HALF``: the client is told that the server
            says nothing more, but may go on talking
        :returns: how many
        """

        def cut() -> None:
            links.extend(self._links)
            for link in links:
                link.cut(how)

        links: list[Link] = []
        self._call(cut)
        return len(links)

    def _change(self, name: str, fault: Fault) -> None:
        setattr(self, name, fault)
        self._changed.set()
        self._changed = asyncio.Event()

    def _call(self, function: Callable[[], object]) -> None:
        """Run *function* in the loop, and wait for it."""

        async def call() -> None:
            function()

        assert self._loop is not None, "the proxy is not started"
        asyncio.run_coroutine_threadsafe(call(), self._loop).result(TIMEOUT)

    # -- the loop ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed, self._done = asyncio.Event(), asyncio.Event()
        tasks: set[asyncio.Future[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.accepted += 1
            task = asyncio.ensure_future(self._handle(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        listener.bind((HOST, 0))
        server = await asyncio.start_server(
            accept, sock=listener, ssl=self._tls, limit=CHUNK
        )
        self.port = listener.getsockname()[1]
        self._ready.set()
        await self._done.wait()
        server.close()
        for link in list(self._links):
            link.cut(RST)
        self._change("_up", Fault())
        self._change("_down", Fault())
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), TIMEOUT)
        await asyncio.sleep(0)  # aborted transports close in the next round

    async def _handle(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            server = await asyncio.open_connection(HOST, self._target, limit=CHUNK)
        except OSError:
            writer.transport.abort()
            return
        link = Link(self, (reader, writer), server)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)
