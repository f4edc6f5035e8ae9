"""Main ends without ``client.stop()``, and what is under way is finished.

Arguments: what is under way, and how main ends. Each callback that runs prints a line.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import partial
from typing import Any

from tests.programs import arguments, new_client

#: How long main leaves what is under way behind, in seconds.
A_WHILE = 0.5

entered = threading.Event()


def say(*args: Any) -> None:
    os.write(1, b"ran\n")  # at once, and in one piece


def say_later(*args: Any) -> None:
    entered.set()
    time.sleep(A_WHILE)
    say()


def block(*args: Any) -> None:
    entered.set()
    threading.Event().wait()


def completions(client: Any) -> None:
    """Eight callbacks of results are queued."""
    results = [client.exists_async("/") for _ in range(8)]
    results[-1].get()
    results[0].rawlink(say_later)
    for result in results[1:]:
        result.rawlink(say)
    entered.wait()


def watches(client: Any) -> None:
    """Five watch events are queued."""
    client.ensure_path("/node")
    for watch in (say_later, *(partial(say) for _ in range(4))):
        client.get_children("/node", watch=watch)
    client.create("/node/child")
    client.sync("/")
    entered.wait()


def replies(client: Any) -> None:
    """Twenty requests have a callback each, and most have no reply yet."""
    client.exists_async("/").rawlink(say_later)
    entered.wait()
    for _ in range(19):
        client.exists_async("/").rawlink(say)


def requests(client: Any) -> None:
    """Two hundred requests, most of which are not sent yet."""
    client.ensure_path("/node")
    client.exists_async("/").rawlink(say_later)
    entered.wait()
    for _ in range(200):
        client.create_async("/node/child-", sequence=True)


def blocked(client: Any) -> None:
    """A callback of either kind blocks for ever, and others are behind it."""
    client.exists("/node", watch=block)
    client.create("/node")
    entered.wait()
    entered.clear()
    client.exists("/other", watch=say)
    client.create("/other")
    for callback in (block, say, say):
        client.exists_async("/").rawlink(callback)
    entered.wait()


if __name__ == "__main__":
    what, ending = arguments()
    client = new_client(stop_timeout=1.0 if what == "blocked" else 20.0)
    client.start()
    globals()[what](client)
    if ending == "sys.exit":
        sys.exit(0)
