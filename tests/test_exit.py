"""The end of a process: it comes when it should, and quietly. Signals."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.support import TIMEOUT, run_python

START = """
import importlib, logging, os, signal, sys, threading, time
from kazoo.client import KazooClient

hosts, module, *arguments = sys.argv[1:]

def make_client(hosts=hosts, **options):
    handler = importlib.import_module(module).SequentialThreadingHandler(**options)
    return KazooClient(hosts, handler=handler)

def block(*args):
    entered.set()
    gate.wait()

logging.getLogger("kazoo.client").addHandler(logging.NullHandler())
entered, gate = threading.Event(), threading.Event()
client = make_client()
"""

# Sends a signal to this process once its main thread is blocked in a function. However
# long that takes, no callback is given up or warned of.
SIGNAL = """
if module.startswith("kazoo_"):
    client = make_client(stop_timeout=600.0, slow_callback_duration=None)
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs

def names(frame):
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back

def send_signal(number, function):
    main, seen = threading.main_thread().ident, 0
    while seen < 20:
        time.sleep(0.005)
        seen = seen + 1 if function in names(sys._current_frames()[main]) else 0
    global sent
    sent = time.monotonic()
    os.kill(os.getpid(), number)

def signal_in(function, number=signal.SIGINT):
    thread = threading.Thread(target=send_signal, args=(number, function))
    thread.daemon = True
    thread.start()
"""


@pytest.fixture
def run(hosts: str, handler_class: type[Any], stock: bool) -> Any:
    """Return a function that runs a script with the handler under test."""
    limit = TIMEOUT if stock else 2 * TIMEOUT

    def run(script: str, *arguments: str) -> str:
        try:
            done = run_python(
                START + script,
                hosts,
                handler_class.__module__,
                *arguments,
                timeout=limit,
            )
        except subprocess.TimeoutExpired as error:
            pytest.fail(f"does not end: {error.stdout!r} {error.stderr!r}")
        assert done.stderr == ""
        assert done.returncode == 0
        return done.stdout

    return run


# -- the end -------------------------------------------------------------------------

blocks = pytest.mark.stock_fails("waits at exit for a callback that blocks")


@blocks
@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("kind", ["completion", "watch"])
def test_exit_with_a_callback_that_blocks(run: Any, kind: str, stopped: bool) -> None:
    """It is reported, here to a logger that is silent, and keeps nobody."""
    script = """
logging.getLogger("kazoo_seqthreading").addHandler(logging.NullHandler())
if module.startswith("kazoo_"):
    client = make_client(stop_timeout=0.1)
client.start()
if arguments[0] == "completion":
    client.exists_async("/").rawlink(block)
else:
    client.exists("/node", watch=block)
    client.create("/node")
entered.wait()
if arguments[1] == "True":
    client.stop()
    client.close()
print("main returns")
"""
    assert run(script, kind, str(stopped)) == "main returns\n"


ENDINGS = {
    "started": "client.start()",
    "stopped": "client.start(); client.stop(); client.close()",
    "requests under way": """
client.start()
results = [client.exists_async("/") for _ in range(5000)]
""",
    "threads at work": """
def work(result=None):
    client.exists_async("/").rawlink(work)

def loop():
    while True:
        client.exists("/")

client.start()
for _ in range(10):
    work()
for _ in range(3):
    threading.Thread(target=loop, daemon=True).start()
client.get_children("/")
""",
    "watches": """
client.start()
client.create("/node")
seen = threading.Event()

@client.DataWatch("/node")
def changed(data, stat):
    if data == b"9":
        seen.set()

for number in range(10):
    client.set("/node", b"%d" % number)
seen.wait()
for number in range(10):
    client.set_async("/node", b"%d" % number)
""",
    "connecting": "make_client('127.0.0.1:1').start_async()",
    "spawn and stop in atexit": """
import atexit

def at_exit():
    client.handler.spawn(client.exists, "/")
    client.exists("/")
    client.stop()
    client.close()

client.start()
atexit.register(at_exit)
""",
    "stop in a thread": """
def stop():
    client.stop()
    client.close()

client.start()
threading.Thread(target=stop).start()
""",
    "sys.exit in a callback": """
client.start()
client.exists_async("/").rawlink(lambda result: entered.set())
entered.wait()
sys.exit(0)
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_printed_at_exit(run: Any, ending: str) -> None:
    assert run(ENDINGS[ending]) == ""


@pytest.mark.parametrize("kind", ["completion", "watch"])
def test_what_is_queued_at_exit_runs(run: Any, kind: str) -> None:
    script = """
import atexit

def wait(*args):
    entered.set()
    threading.main_thread().join(10)  # until the interpreter ends
    seen.append("first")

def more(*args):
    seen.append("second")

seen = []
atexit.register(lambda: print(*seen))  # after what is registered later
client.start()
if arguments[0] == "completion":
    results = [client.exists_async("/") for _ in range(2)]
    for result, function in zip(results, (wait, more)):
        result.rawlink(function)
        result.wait(10)
else:
    for path, function in ("/one", wait), ("/two", more):
        client.exists(path, watch=function)
    for path in "/one", "/two":
        client.create(path)
entered.wait()
"""
    assert run(script, kind) == "first second\n"


@pytest.mark.parametrize("queue", ["completion_queue", "callback_queue"])
def test_handler_is_freed_as_the_interpreter_ends(queue: str) -> None:
    """Other threads are frozen then, in the middle of whatever they do."""
    script = f"""
import sys, threading
from kazoo_seqthreading import SequentialThreadingHandler

entered = threading.Event()
handler = SequentialThreadingHandler(stop_timeout=0.1, slow_callback_duration=None)
handler.start()
handler.{queue}.put(entered.set)
handler.{queue}.put(threading.Event().wait)
entered.wait()
threading.excepthook = sys.excepthook = sys.unraisablehook = print
"""
    done = run_python(script, timeout=TIMEOUT + 5)
    assert (done.returncode, done.stdout) == (0, "")
    (report,) = [line for line in done.stderr.splitlines() if line[:1].isalpha()]

    assert "did not stop within 0.1 s: still running threading.Event.wait" in report


# -- signals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "function"),
    [
        ("client.handler.async_result().get()", "get"),
        ("client.handler.async_result().get(timeout=600)", "get"),
        ("client.handler.async_result().wait()", "wait"),
        ("client.handler.event_object().wait()", "wait"),
        ("make_client('127.0.0.1:1').start(600)", "start"),
        ("client.Lock('/lock', 'other').acquire()", "acquire"),
    ],
)
def test_interrupt(run: Any, call: str, function: str) -> None:
    script = (
        SIGNAL
        + f"""
client.start()
other = make_client()
other.start()
other.Lock("/lock", "one").acquire()
signal_in({function!r})
try:
    {call}
except KeyboardInterrupt:
    print(time.monotonic() - sent < 10.0)
print(client.exists("/") is not None)
"""
    )
    assert run(script) == "True\nTrue\n"


def test_interrupt_in_stop(run: Any) -> None:
    script = (
        SIGNAL
        + """
client.start()
client.exists_async("/").rawlink(block)
entered.wait()
signal_in("stop")
try:
    client.stop()
except KeyboardInterrupt:
    print(time.monotonic() - sent < 10.0)
"""
    )
    assert run(script) == "True\n"


def test_interrupted_stop_can_be_finished(run: Any) -> None:
    script = (
        SIGNAL
        + """
client.start()
client.exists_async("/").rawlink(block)
entered.wait()
signal_in("stop")
try:
    client.handler.stop()
except KeyboardInterrupt:
    gate.set()
client.handler.stop()
client.stop()
client.close()
client.start()
print(client.exists("/") is not None)
client.stop()
client.close()
"""
    )
    assert run(script) == "True\n"


@pytest.mark.parametrize(
    ("place", "function"),
    [
        ("get", "client.stop"),
        ("get", "client.handler.stop"),
        ("start", "client.stop"),
        ("start", "client.handler.stop"),
        ("stop", "client.stop"),
        pytest.param(
            *("stop", "client.handler.stop"),
            marks=pytest.mark.stock_fails("one stop within another deadlocks"),
        ),
    ],
)
def test_stop_in_a_signal_handler(run: Any, place: str, function: str) -> None:
    """A signal handler may stop the client, wherever the main thread is."""
    script = (
        SIGNAL
        + f"""
def on_signal(number, frame):
    threading.Timer(0.1, gate.set).start()  # the callback ends while both wait
    {function}()
    print("stopped by the handler")
    handled.set()

def complete():
    handled.wait()
    pending.set()

handled, pending = threading.Event(), client.handler.async_result()
signal.signal(signal.SIGTERM, on_signal)
client.start()
client.exists_async("/").rawlink(block)
entered.wait()
place = {place!r}
signal_in(place, signal.SIGTERM)
if place == "stop":
    client.stop()
elif place == "get":
    threading.Thread(target=complete).start()
    pending.get()
else:
    try:
        make_client("127.0.0.1:1").start(5.0)
    except client.handler.timeout_exception:
        pass
client.stop()
client.close()
print("stopped")
"""
    )
    assert run(script) == "stopped by the handler\nstopped\n"
