"""Why a connection was lost: what is decided, said and counted."""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
import time
from collections import deque
from dataclasses import FrozenInstanceError, asdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from kazoo.protocol import connection as kazoos

from kazoo_seqthreading import Disconnect, SequentialThreadingHandler, _history
from kazoo_seqthreading._connection import Connection
from kazoo_seqthreading._disconnects import CAUSES, Reconnect
from kazoo_seqthreading._history import Clocks, Facts, History, StackSample
from kazoo_seqthreading._stats import TrafficCounters
from tests.internals import wait_for_messages
from tests.support import ROOT, TIMEOUT, run_python, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import MakeClient
    from tests.zookeeper import ZooKeeper

CONNECTION = "kazoo_seqthreading.connection"
DIAGNOSIS = (ROOT / "kazoo_seqthreading/DIAGNOSIS.rst").read_text(encoding="utf-8")

# -- what is said ----------------------------------------------------------------------

LOST = Disconnect(
    "closed",
    "10.0.0.1:2181",
    at=0.0,
    session_id=0x1000,
    session_timeout_seconds=10.0,
    connected_seconds=61.24,
    unheard_seconds=8.0,
)
HELD_UP = Disconnect(
    **{
        **asdict(LOST),
        "cause": "listener",
        "held_up_by": "on_state (app.py:12)",
        "held_up_seconds": 12.34,
        "requests_unanswered": 2,
        "heartbeats_unanswered": 1,
        "oldest_unanswered_seconds": 0.52,
    }
)
EXPIRED = Disconnect(
    **{
        **asdict(LOST),
        "cause": "expired",
        "first_cause": "silent",
        "unheard_seconds": 14.0,
        "disconnected_seconds": 6.0,
    }
)
RECONNECT = Reconnect(
    "10.0.0.2:2181", 0x1000, True, 1.5, (("10.0.0.1:2181", 2, "Connection refused"),)
)
#: In the order of DIAGNOSIS.rst.
MESSAGES = [
    LOST,
    HELD_UP,
    EXPIRED,
    Disconnect(**{**asdict(EXPIRED), "first_cause": None}),
    RECONNECT,
    Reconnect("10.0.0.1:2181", 0x2000, False, 20.0, ()),
]


def section(title: str) -> str:
    return DIAGNOSIS.partition(f"\n{title}\n---")[2].partition("\n---")[0]


def words(text: str) -> str:
    return " ".join(text.split())


def test_messages_are_documented_word_for_word() -> None:
    text = words(section("Lost connections"))
    for message in MESSAGES:
        assert words(str(message)) in text


def test_words_of_causes_are_documented() -> None:
    _, _, table = section("Lost connections").partition("\n=====")
    rows: dict[str, str] = {}
    cause = ""
    for line in table.splitlines()[1:]:
        row = re.match(r"(?:``(\w+)``)? +(\S.*)$", line)
        if row is None:
            break  # the end of the table
        cause = row[1] or cause
        rows[cause] = f"{rows.get(cause, '')} {row[2]}".strip()

    def shown(text: str) -> str:
        text = text.replace("{error}", "ERROR").replace("{held_up_by}", "NAME")
        return re.sub(r"\{\w+:.1f\}", "N", text)

    assert rows == {name: shown(text) for name, text in CAUSES.items()}


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_has_words(cause: str) -> None:
    text = str(Disconnect(cause, "10.0.0.1:2181", at=0.0))
    assert "10.0.0.1:2181" in text
    assert "{" not in text
    assert text.endswith(".")


def test_what_held_up_the_reconnection_is_told() -> None:
    text = str(Disconnect(**{**asdict(EXPIRED), "held_up_by": "f (a.py:1)"}))
    assert text.endswith(" f (a.py:1) held up the reconnection for 0.0 s.")


def test_number_of_servers_that_were_tried() -> None:
    several = (("a:1", 1, "no"), ("b:2", 3, "never"))
    text = str(Reconnect("c:3", 1, True, 1.0, several))
    assert text.endswith(". 4 attempts failed: a:1: no; b:2 (3 times): never.")


def test_it_is_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        LOST.cause = "reset"  # type: ignore[misc]


# -- what is decided -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ECONNRESET, "reset"),
        (errno.EPIPE, "reset"),
        (errno.ETIMEDOUT, "silent"),
        (errno.EHOSTUNREACH, "network"),
        (errno.EPROTO, "invalid"),
    ],
)
def test_errors(number: int, cause: str) -> None:
    facts = Facts()
    connection: Any = SimpleNamespace(sent_at=0.0)
    facts.note_error(connection, OSError(number, os.strerror(number)))
    facts.note_error(connection, OSError(errno.EBADF, "what follows from it"))

    assert facts.end is not None
    assert (facts.end.cause, facts.end.error) == (cause, os.strerror(number))


def make_history(on_transition: Callable[[], object] = int) -> History:
    connection: Any = object()
    return History(connection, TrafficCounters(), deque(), on_transition)


@pytest.mark.parametrize(
    ("cpu", "cause"), [(0.1, "suspended"), (9.0, "busy")], ids=["idle", "at work"]
)
def test_hold_up_of_the_process(
    cpu: float, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = make_history()
    history.clocks = Clocks(100.0, 5.0, 0.0)
    monkeypatch.setattr(_history, "read_clocks", lambda: Clocks(110.0, 5.0 + cpu, 0.0))
    held_up = history.hold_up(100.0, 110.0)

    assert (held_up.cause, held_up.seconds, held_up.by) == (cause, 10.0, None)
    assert held_up.cpu == pytest.approx(cpu)


def test_machine_that_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock that goes on meanwhile tells."""
    history = make_history()
    history.clocks = Clocks(100.0, 5.0, 0.0)
    monkeypatch.setattr(_history, "read_clocks", lambda: Clocks(100.5, 5.0, 3600.0))
    held_up = history.hold_up(100.0, 100.5)

    assert (held_up.cause, held_up.seconds) == ("suspended", 3600.5)


@pytest.mark.parametrize("is_listener", [True, False])
@pytest.mark.parametrize(
    ("since", "until", "blamed"),
    [(100.0, 110.0, True), (104.0, 110.0, True), (60.0, 61.0, False)],
)
def test_hold_up_by_code(
    since: float, until: float, blamed: bool, is_listener: bool
) -> None:
    """It was seen for at least half of the time."""
    history = make_history()
    history.stack_sample = StackSample("f (a.py:1)", is_listener, since, until, 0.25)
    held_up = history.hold_up(100.0, 110.0)
    if blamed:
        cause = "listener" if is_listener else "call"
        assert (held_up.cause, held_up.by) == (cause, "f (a.py:1)")
    else:
        assert held_up.by is None


def test_failure_of_the_diagnosis_harms_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    facts: Any = Facts()
    facts.note_end(None, "closed", None)  # no connection has such a type
    wait_for_messages()
    (record,) = caplog.records

    assert (record.name, record.levelname) == (CONNECTION, "ERROR")
    assert "Please report it" in record.message


# -- what a client's handler counts ----------------------------------------------------


def causes(client: Any) -> list[str]:
    return [one.cause for one in client.handler.stats().disconnects]


def wait_for_reconnection(client: Any) -> None:
    """Wait until the client has lost its first connection, and has another one."""
    wait_until(lambda: causes(client) and client.connected)


def test_log_and_stats_tell_the_same(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, CONNECTION)
    session = client.client_id[0]
    client._queue.append((kazoos._CONNECTION_DROP, None))
    client._connection._write_sock.send(b"\0")
    wait_for_reconnection(client)
    wait_for_messages()
    (disconnect,) = client.handler.stats().disconnects
    assert client.handler.stats().disconnects_by_cause == {"kazoo": 1}
    lost, again = (one for one in caplog.records if one.name == CONNECTION)
    assert (lost.levelname, lost.message) == ("WARNING", str(disconnect))
    assert {name: vars(lost)[name] for name in asdict(disconnect)} == asdict(disconnect)
    assert abs(disconnect.at - time.time()) < TIMEOUT
    assert disconnect.session_id == session
    assert disconnect.session_timeout_seconds == client._session_timeout / 1000
    assert again.levelname == "INFO"
    fields = vars(again)

    assert (fields["same_session"], fields["attempts"]) == (True, ())
    assert fields["session_id"] == session
    assert "the same session" in again.message


def test_session_that_expires_at_once(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing has come before it."""
    caplog.set_level(logging.INFO, CONNECTION)
    client._queue.append((kazoos._SESSION_EXPIRED, None))
    client._connection._write_sock.send(b"\0")
    wait_for_reconnection(client)
    wait_for_messages()
    (expired,) = client.handler.stats().disconnects
    assert (expired.cause, expired.first_cause) == ("expired", None)
    _, again = (one.message for one in caplog.records if one.name == CONNECTION)

    assert "a new session" in again


def test_server_that_is_not_read_only(client: Any, hosts: str) -> None:
    address = hosts.partition("/")[0].partition(":")
    client._connection._ro_mode = iter([(address[0], int(address[2]))] * 2)
    client._connection.retry_sleeper.max_delay = 0.1
    lost = threading.Event()
    client.add_listener(lambda state: lost.set())

    assert lost.wait(TIMEOUT)  # with the next heartbeat
    assert wait_until(lambda: causes(client)) == ["read_write"]


def test_unexpected_exception(
    client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        monkeypatch.undo()
        raise ValueError("on purpose")

    monkeypatch.setattr(Connection, "_wait", fail)
    client.exists_async("/")
    wait_for_reconnection(client)
    (disconnect,) = client.handler.stats().disconnects

    assert (disconnect.cause, disconnect.error) == ("internal", "ValueError")


def test_log_handler_that_holds_up_the_connection_thread(
    make_client: MakeClient, own_server: ZooKeeper
) -> None:
    """kazoo logs there, and whatever listens to its log runs there."""
    held_up = threading.Event()

    class Blocks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not held_up.is_set() and "Received response" in record.getMessage():
                held_up.set()
                assert gone.wait(TIMEOUT)

    gone = threading.Event()
    witness = make_client(hosts=own_server.hosts)
    witness.start()
    log = logging.Logger("test", logging.DEBUG)
    client = make_client(hosts=own_server.hosts, timeout=1.0, logger=log)
    client.start()
    path = client.create("/alive-", ephemeral=True, sequence=True)
    witness.sync(path)
    assert witness.exists(path, watch=lambda event: gone.set())
    log.addHandler(Blocks())
    client.exists_async("/")
    assert held_up.wait(TIMEOUT)
    wait_until(lambda: causes(client) == ["call", "expired"])
    (first, _) = client.handler.stats().disconnects

    assert "emit (" in first.held_up_by


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("use", ["request", "start"])
def test_forked_child(hosts: str, use: str) -> None:
    """It is counted; a warning tells of a request, a new start needs none."""
    program = run_python(
        """
import logging, os, sys, warnings
from kazoo.exceptions import ConnectionClosedError
from kazoo_seqthreading import SequentialThreadingHandler
from tests.internals import wait_for_messages
from tests.support import KazooClient

warnings.simplefilter("ignore", DeprecationWarning)
written = []
log = logging.Handler()
log.emit = lambda record: written.append(record.getMessage())
logging.getLogger("kazoo_seqthreading.connection").addHandler(log)
client = KazooClient(sys.argv[1], handler=SequentialThreadingHandler())
client.start()
pid = os.fork()
if not pid:
    try:
        if sys.argv[2] == "start":
            client.start()
        else:
            try:
                client.exists("/")
            except ConnectionClosedError:
                pass
        wait_for_messages()
        print(client.handler.stats().disconnects_by_cause, len(written), flush=True)
        print(*written, file=sys.stderr, flush=True)
        os._exit(0)
    finally:
        os._exit(1)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert client.handler.stats().disconnects == ()
client.stop()
client.close()
sys.exit(status)
""",
        hosts,
        use,
    )
    assert program.returncode == 0, program.stderr
    expected = 1 if use == "request" else 0

    assert program.stdout == f"{{'forked': 1}} {expected}\n", program.stderr
    assert ("this process is a forked child" in program.stderr) == bool(expected)


def test_last_ones_are_kept(handler: SequentialThreadingHandler) -> None:
    kept = deque[Disconnect](maxlen=_history.MAX_DISCONNECTS)
    traffic = TrafficCounters()
    for _ in range(3 * _history.MAX_DISCONNECTS):
        _history.record(LOST, traffic, kept, warn=False)

    assert len(kept) == _history.MAX_DISCONNECTS
    assert traffic.disconnects["closed"] == 3 * _history.MAX_DISCONNECTS
    assert handler.stats().disconnects == ()
