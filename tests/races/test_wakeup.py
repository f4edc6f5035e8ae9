"""The wake-up channel: requests are made while the connection thread goes to sleep."""

from __future__ import annotations

from collections.abc import Callable

from tests.races import doubles
from tests.races.bugs import finds
from tests.races.copies import Copy

Explore = Callable[..., None]


class Client:
    """kazoo's, of which the channel knows the queue."""

    def __init__(self) -> None:
        self._queue = doubles.deque()


class Asked:
    """A channel, and the requests that its reader has got."""

    def __init__(self, copy: Copy) -> None:
        self.client = Client()
        self.sent: list[str] = []
        self.reader, self.writer = copy._wakeup.make_channel(lambda queue: None)
        copy._wakeup.attach(self.reader, self.writer, self.client)

    def request(self, name: str) -> None:
        self.client._queue.append(name)  # as kazoo does
        self.writer.send(b"\0")

    def send_next(self) -> None:
        self.sent.append(self.client._queue.popleft())
        self.reader.recv(1)

    def in_order(self, *names: str) -> bool:
        return sorted(self.sent) == sorted(names)


def request(state: Asked) -> None:
    state.request("a")


def request_another(state: Asked) -> None:
    state.request("b")


def request_two(state: Asked) -> None:
    state.request("a")
    state.request("b")


def read(requests: int) -> Callable[[Asked], None]:
    """Return a reader that sleeps until it has got so many requests.

    It takes no byte out, as with a poller that is edge-triggered: a byte is one event.
    """

    def run(state: Asked) -> None:
        reader = state.reader
        reader.leave_plain()
        while len(state.sent) < requests:
            if reader.begin_sleep():
                reader.poll()
                reader.end_sleep()
                reader.drain()
            while state.client._queue:
                state.send_next()

    return run


def read_plain(requests: int) -> Callable[[Asked], None]:
    """Return a reader of a user's own select, which sees bytes alone."""

    def run(state: Asked) -> None:
        while len(state.sent) < requests:
            state.reader.poll()
            if state.client._queue:
                state.send_next()
            else:
                state.reader.recv(1)  # as kazoo does

    return run


def full(copy: Copy) -> Asked:
    """Return a channel full of bytes that nobody has taken out."""
    state = Asked(copy)
    state.writer.pipe.state = state.writer.pipe.size
    return state


#: Whoever sleeps looks at the queue after it has said so.
LOOK = "        if self.client._queue:\n            channel.sleep = AWAKE"


@finds(
    ("_wakeup", LOOK, LOOK.replace("self.client._queue", "False")),
    (
        "_wakeup",
        "            self.wake()\n            channel.woken",
        "            channel.woken",
    ),
)
def test_request_and_sleep(explore: Explore) -> None:
    explore(Asked, request, read(1), then=lambda state: state.in_order("a"))


@finds(
    (
        "_wakeup",
        "        if sleep > 0 and channel.woken != sleep:",
        "        if sleep > 0 and not channel.woken:",
    ),
    ("_wakeup", LOOK, LOOK.replace("self.client._queue", "False")),
)
def test_two_requests_and_sleep(explore: Explore) -> None:
    explore(Asked, request_two, read(2), then=lambda state: state.sent == ["a", "b"])


@finds(
    (
        "_wakeup",
        "        if sleep > 0 and channel.woken != sleep:",
        "        if sleep > 0 and channel.woken < sleep - 1:",
    ),
    # A flag, not the number of the sleep: who comes late takes it back.
    (
        "_wakeup",
        "            channel.woken = sleep",
        "            channel.woken = channel.sleep",
    ),
)
def test_two_threads_request(explore: Explore) -> None:
    explore(
        Asked,
        request,
        request_another,
        read(2),
        then=lambda state: state.in_order("a", "b"),
    )


@finds(
    (
        "_wakeup",
        "BlockingIOError:  # full of bytes that nobody had to take out",
        "InterruptedError:",
    ),
)
def test_a_channel_that_is_full(explore: Explore) -> None:
    explore(
        full,
        request,
        request_another,
        read(2),
        then=lambda state: state.in_order("a", "b"),
    )


@finds(
    (
        "_wakeup",
        "                self.channel.writer.wake()\n",
        "                pass\n",
    ),
)
def test_request_and_a_select_of_the_users(explore: Explore) -> None:
    explore(
        Asked, request_two, read_plain(2), then=lambda state: state.sent == ["a", "b"]
    )


def test_two_threads_request_and_a_select_of_the_users(explore: Explore) -> None:
    explore(
        Asked,
        request,
        request_another,
        read_plain(2),
        then=lambda state: state.in_order("a", "b"),
    )
