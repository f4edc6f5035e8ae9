"""What a type checker must not accept: each line with ``# error``, and no other one.

``test_checkers.py`` has it checked; ``mypy`` on its own leaves it out.
"""

from typing import Any

from kazoo.client import KazooClient
from kazoo.interfaces import IHandler

import kazoo_seqthreading
from kazoo_seqthreading import (
    AsyncResult,
    BlockingCallError,
    SequentialThreadingHandler,
    Stats,
    TimeoutError,
)

handler = SequentialThreadingHandler()
interface: IHandler = handler
client: Any = KazooClient(handler=handler)

kazoo_seqthreading.no_such_name  # error


# -- the handler -----------------------------------------------------------------------

handler.no_such_method()  # error
handler.no_such_attribute = 1  # error
handler.running = True  # error
handler.spawm(print)  # error
handler.spawn("print")  # error
handler.stop(1)  # error
handler.select([0], [])  # error
handler.create_connection("127.0.0.1:2181")  # error
handler.create_connection(("127.0.0.1", 2181), use_tls=True)  # error
SequentialThreadingHandler(1.0)  # error
SequentialThreadingHandler(stop_timout=1.0)  # error
SequentialThreadingHandler(stop_timeout="1")  # error
SequentialThreadingHandler(tcp_keepalive=(60, 10))  # error
SequentialThreadingHandler.no_such_method(handler)  # error


class Subclass(SequentialThreadingHandler):
    def start(self) -> None:
        super().start()
        super().begin()  # error
        self.no_such_method()  # error


Subclass().no_such_method()  # error


# -- what it returns -------------------------------------------------------------------

handler.event_object().after_fork()  # error
handler.lock_object().after_fork()  # error
handler.spawn(print).cancel()  # error
handler.socket().no_such_method()  # error
handler.create_socket_pair()[0].drain()  # error
handler.create_connection(("127.0.0.1", 2181)).framed = True  # error
handler.async_result().rawlnk(print)  # error
handler.stats().no_such_counter  # error
Stats.no_such_counter  # error


# -- results ---------------------------------------------------------------------------


def use(result: AsyncResult[bytes]) -> None:
    result.rawlnk(print)  # error
    result.rawlink("print")  # error
    result.rawlink(lambda: None)  # error
    result.set("text")  # error
    result.set(b"", None)  # error
    result.link(print)  # error
    result.exception = None  # error
    result.no_such_attribute = None  # error
    result.get(timeout="1")  # error
    result.get().no_such_method()  # error
    number: int = result.get()  # error
    del number


async def wait(result: AsyncResult[bytes]) -> int:
    return await result  # error


def from_client() -> None:
    result: AsyncResult[bytes] = client.get_async("/")
    result.rawlnk(print)  # error
    text: str = result.get()  # error
    del text


# -- errors ----------------------------------------------------------------------------

try:
    client.get("/")
except TimeoutError as timeout:
    timeout.no_such_attribute  # error
except BlockingCallError as blocking:
    blocking.no_such_attribute  # error
