"""What is documented holds: README, recipes, design, tables.

The code blocks run, one after the other, on the real server.
"""

from __future__ import annotations

import ast
import http.client
import io
import math
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

import kazoo_seqthreading
from kazoo_seqthreading._disconnects import CAUSES
from tests import links
from tests.faults import test_bytes, test_causes, test_faults, test_growth
from tests.support import ROOT, TIMEOUT, run_python, wait_until

if TYPE_CHECKING:
    from tests.support import MakeClient
    from tests.zookeeper import ZooKeeper

BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:(?:    .*)?\n)+)", re.MULTILINE)


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


README = read("README.rst")
DESIGN = read("kazoo_seqthreading/DESIGN.rst")
TESTS = read("tests/README.rst")
FAULTS = read("tests/faults/README.rst")
#: What has code for users, in the order in which it runs.
WITH_CODE = (
    "README.rst",
    "kazoo_seqthreading/RECIPES.rst",
    "kazoo_seqthreading/DIAGNOSIS.rst",
)
DOCUMENTS = [
    str(path.relative_to(ROOT))
    for pattern in ("*.rst", "kazoo_seqthreading/*.rst", "tests/**/*.rst")
    for path in sorted(ROOT.glob(pattern))
]


def blocks() -> list[str]:
    found = [block for path in WITH_CODE for block in BLOCK.findall(read(path))]
    return [textwrap.dedent(block) for block in found]


class Signal:
    """What a recipe uses of Celery, which need not be installed."""

    def __init__(self) -> None:
        self.receivers: list[Callable[..., Any]] = []

    def connect(self, receiver: Callable[..., Any]) -> Callable[..., Any]:
        self.receivers.append(receiver)
        return receiver

    def send(self) -> None:
        for receiver in self.receivers:
            receiver(signal=self, sender=None)


@pytest.fixture
def names(
    hosts: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The names that the blocks leave, after they have run."""
    celery: Any = ModuleType("celery.signals")
    celery.worker_process_init = Signal()
    monkeypatch.setitem(sys.modules, "celery", ModuleType("celery"))
    monkeypatch.setitem(sys.modules, "celery.signals", celery)
    namespace: dict[str, Any] = {"__name__": "readme"}
    clients: dict[int, Any] = {}
    on_signal: Any = signal.getsignal(signal.SIGUSR1)
    try:
        for block in blocks():
            if "opentelemetry" in block:
                continue  # it has a test of its own
            # Whoever copies a block has a server there; here it is the test's.
            source = block.replace("127.0.0.1:2181", hosts)
            exec(compile(source, "a recipe", "exec"), namespace)
            clients[id(namespace["client"])] = namespace["client"]
            if "ZooKeeperCollector" in block:
                namespace["metrics"] = prometheus_client.generate_latest().decode()
        namespace["output"] = capsys.readouterr().out
        namespace["client"].delete("/app", recursive=True)
        namespace["client"].stop()
        yield namespace
    finally:
        if on_signal is not None:
            signal.signal(signal.SIGUSR1, on_signal)
        for client in clients.values():
            client.stop()
            client.close()
        for collector in list(prometheus_client.REGISTRY._collector_to_names):
            if type(collector).__name__ == "ZooKeeperCollector":
                prometheus_client.REGISTRY.unregister(collector)


def test_blocks(names: dict[str, Any]) -> None:
    assert len(blocks()) >= 12
    for path in DOCUMENTS:  # No other block, one that does not run, holds Python.
        assert not re.search(r"::\n\n +(?:@|def|class|import|from)\b", read(path)), path
    output = names["output"].splitlines()

    assert output[0].startswith("[")  # the children of the root
    assert output[1] == "done"
    assert output[2] == "(b'verbose', ['config'])"
    assert sorted(line.split()[0] for line in output[3:6]) == [
        "/",
        "/app",
        "/app/config",
    ]
    assert output[6] == "r-17 b'verbose'"
    assert isinstance(names["stats"], kazoo_seqthreading.Stats)
    assert names["stats"].requests > 0


@pytest.mark.parametrize("handler", ["kazoo", "ours"])
def test_example_of_why(hosts: str, handler: str) -> None:
    """It prints what the README says, and with kazoo's handler it does not end."""
    source = blocks()[1].replace("127.0.0.1:2181", hosts)
    ours = ", handler=SequentialThreadingHandler()"
    assert ours in source
    if handler == "kazoo":
        source = source.replace(ours, "").replace("done.wait(5)", "done.wait(1)")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-u", "-c", source], env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            printed = process.stdout.readline()
            if handler == "ours":
                assert process.wait(TIMEOUT) == 0
            else:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(1.0)
        finally:
            process.kill()

    assert printed == {"kazoo": "hangs\n", "ours": "done\n"}[handler]


def test_prometheus(names: dict[str, Any]) -> None:
    families = {
        family.name: family
        for family in text_string_to_metric_families(names["metrics"])
    }
    assert families["zk_requests"].samples[0].value > 0
    queues = {sample.labels["queue"] for sample in families["zk_queue_depth"].samples}
    assert queues == {"completions", "watches"}
    assert families["zk_disconnects"].type == "counter"
    trips = families["zk_round_trip_seconds"]
    assert trips.type == "histogram"
    values = {
        (sample.name.rpartition("_")[2], *sorted(sample.labels.values())): sample.value
        for sample in trips.samples
    }
    for part in ("client", "server"):
        assert values["bucket", "+Inf", part] == values["count", part] > 0
        assert 0 < values["sum", part] < 60


def test_opentelemetry(client: Any) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.metrics")
    export = pytest.importorskip("opentelemetry.sdk.metrics.export")
    metrics = pytest.importorskip("opentelemetry.metrics")
    (block,) = (block for block in blocks() if "opentelemetry" in block)
    reader = export.InMemoryMetricReader()
    provider = sdk.MeterProvider([reader])
    metrics.set_meter_provider(provider)
    exec(compile(block, "a recipe", "exec"), {"client": client})
    client.exists("/")
    lost = threading.Event()
    client.add_listener(lambda state: lost.set())
    client._connection._socket.close()
    assert lost.wait(TIMEOUT)
    wait_until(lambda: client.handler.stats().disconnects)
    (resource,) = reader.get_metrics_data().resource_metrics
    (scope,) = resource.scope_metrics
    found = {
        metric.name: {
            tuple(point.attributes.values()): point.value
            for point in metric.data.data_points
        }
        for metric in scope.metrics
    }
    provider.shutdown()
    assert found["zookeeper.disconnects"] == {("thread",): 1}
    assert set(found["zookeeper.round_trip.sum"]) == {("server",), ("client",)}
    buckets = found["zookeeper.round_trip.bucket"]

    assert buckets["server", math.inf] > 0
    assert buckets["client", 10.0] <= buckets["client", math.inf]


def test_report_of_a_signal(
    names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    names["print_report"](signal.SIGTERM, None)
    assert capsys.readouterr().err.startswith("kazoo-seqthreading ")


def test_tls(
    names: dict[str, Any], make_client: MakeClient, tls_server: ZooKeeper
) -> None:
    context, handler = names["context"], names["tls_handler"]
    assert tls_server.tls is not None
    context.load_verify_locations(tls_server.tls.ca)
    client = make_client(hosts=tls_server.tls_hosts, use_ssl=True, handler=handler)
    client.start(TIMEOUT)

    assert client.exists("/") is not None
    assert client._connection._socket.ssl_object.context is context
    assert client._connection._socket.ssl_object.version() == "TLSv1.3"


def test_subclass(names: dict[str, Any], make_client: MakeClient) -> None:
    client = make_client(handler=names["Impatient"](), timeout=60.0)
    client.start(TIMEOUT)
    assert client.get_children("/") == []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address, began = silent.getsockname(), time.monotonic()
        with pytest.raises(OSError, match=f"127.0.0.1:{address[1]}"):
            client.handler.create_connection(address, timeout=60.0, use_ssl=True)
        assert time.monotonic() - began < 10.0


def test_celery(names: dict[str, Any]) -> None:
    client, initialised = names["client"], names["worker_process_init"]
    assert not client.connected
    initialised.send()

    assert client.connected
    assert client.get_children("/") == []


APPLICATION = """
import os
from kazoo.client import KazooClient
from kazoo_seqthreading import SequentialThreadingHandler

client = KazooClient(os.environ["HOSTS"], handler=SequentialThreadingHandler())
client.start()
session = client.client_id

def application(environ, start_response):
    body = client.get("/value")[0] + b"; session %d" % (client.client_id != session)
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_gunicorn(client: Any, hosts: str, tmp_path: Path) -> None:
    (block,) = (block for block in blocks() if "def post_fork(" in block)
    tmp_path.joinpath("configuration.py").write_text(f"preload_app = True\n{block}")
    tmp_path.joinpath("app.py").write_text(APPLICATION)
    client.create("/value", b"a value")
    address, log = tmp_path / "socket", tmp_path / "log"
    command = [sys.executable, "-m", "gunicorn", "app", "--config=configuration.py"]
    command += [f"--bind=unix:{address}", "--workers=1"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "HOSTS": hosts, "PYTHONPATH": path}

    def answer() -> str | None:
        assert master.poll() is None, log.read_text()
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(TIMEOUT)
        try:
            with suppress(OSError):  # it is about to listen
                connection.sock.connect(str(address))
                connection.request("GET", "/")
                return connection.getresponse().read().decode()
            return None
        finally:
            connection.close()

    with log.open("w") as output:
        master = subprocess.Popen(
            command, cwd=tmp_path, env=env, stdout=output, stderr=output
        )
    try:
        assert wait_until(answer, 2 * TIMEOUT) == "a value; session 1"
    finally:
        master.terminate()
        try:
            status = master.wait(TIMEOUT)
        finally:
            master.kill()
            master.wait()

    assert status == 0, log.read_text()
    assert "Traceback" not in log.read_text()


# -- the comparison --------------------------------------------------------------------

#: A row of the table: what, footnote, "this", kazoo's threading, gevent, eventlet.
ROW = re.compile(
    r"^(?P<what>\S.*?)(?: \[(?P<note>\d+)\]_)? +(?P<ours>yes|no) +(?P<kazoos>\S+) +"
    r"\S+ +\S+$",
    re.MULTILINE,
)
FOOTNOTE = re.compile(r"^\.\. \[(\d+)\] (.+(?:\n   .+)*)$", re.MULTILINE)


@cache
def known_tests(path: str, mark: str = "stock_fails") -> dict[str, bool]:
    """Return the tests of a file, and whether each is marked.

    By default, whether kazoo's handler is known to fail it.
    """
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    marks = [mark]  # and its names in the file
    for one in body:
        if isinstance(one, ast.Assign) and mark in ast.unparse(one.value):
            marks += map(ast.unparse, one.targets)
    pattern = re.compile(rf"\b({'|'.join(marks)})\b")
    return {
        one.name: any(pattern.search(ast.unparse(it)) for it in one.decorator_list)
        for one in body
        if isinstance(one, ast.FunctionDef) and one.name.startswith("test_")
    }


def named_tests(footnote: str) -> dict[str, bool]:
    """Return the tests that a footnote names, each of which exists."""
    named, path = {}, ""
    for name in re.findall(r"``([^`]+)``", footnote):
        if name.startswith("tests/"):
            path = name
            assert (ROOT / path).is_file(), path
        else:
            assert name in known_tests(path), f"{path}: {name}"
            named[f"{path}: {name}"] = known_tests(path)[name]
    return named


def test_footnotes() -> None:
    rows = [row.groupdict() for row in ROW.finditer(TESTS)]
    footnotes = dict(FOOTNOTE.findall(TESTS))
    assert [row["note"] for row in rows if row["ours"] == "yes"] == list(footnotes)
    assert len(footnotes) >= 14
    unseen = []
    for row in rows:
        if row["note"] is not None:
            tests = named_tests(footnotes[row["note"]])
            assert tests, f"[{row['note']}] names no test"
            if not any(tests.values()):
                unseen.append(row["what"])

    # What kazoo's handler lacks altogether needs no test of that.
    assert set(unseen) <= {"results can be awaited"}


# -- the situations --------------------------------------------------------------------

#: The end of a row of the tests' README: kazoo's handler, ours, the test.
SITUATION = re.compile(r"^ +- (.+)\n +- (.+)\n +- ``(test_\w+)``$", re.MULTILINE)


def test_situations() -> None:
    _, *parts = re.split(r": ``(test_situations\w*\.py)``\n", TESTS)
    tables = dict(zip(parts[::2], parts[1::2]))
    files = (ROOT / "tests").glob("test_situations*.py")
    assert sorted(tables) == sorted(path.name for path in files)
    for name, table in tables.items():
        fails = known_tests(f"tests/{name}")
        not_run = known_tests(f"tests/{name}", "ours_alone")
        expected = []
        for test in fails:
            stock = "\\-" if not_run[test] else "fails" if fails[test] else "holds"
            expected.append((stock, "holds", test))
        assert SITUATION.findall(table) == expected, name


# -- the faults ------------------------------------------------------------------------


def declared_causes() -> dict[str, str]:
    """Return the causes that each test of the fault suite is marked with."""
    declared = {}
    for module in (test_bytes, test_faults, test_growth, test_causes):
        for name, test in vars(module).items():
            marks = {mark.name: mark for mark in getattr(test, "pytestmark", ())}
            if name.startswith("test_"):
                scenario = (test.__doc__ or "").partition("\n")[0].rstrip(".")
                declared[scenario] = ", ".join(marks["causes"].args) or "none"
    return declared


def test_causes_of_faults() -> None:
    rows = (re.split(r"  +", line) for line in FAULTS.splitlines())
    documented = {row[0]: row[3] for row in rows if len(row) == 4}
    assert documented.pop("Fault") == "cause"
    documented = {k: v for k, v in documented.items() if not k.startswith("=")}
    declared = declared_causes()
    left_out = declared.keys() - documented.keys()
    assert documented == {name: declared[name] for name in documented}
    assert left_out == {
        "Connections cut at every offset of a frame",
        "No more threads, descriptors or memory after a thousand reconnections",
    }
    named = {cause for causes in documented.values() for cause in causes.split(", ")}

    assert named - {"none"} <= CAUSES.keys()


# -- the versions ----------------------------------------------------------------------

TOX = (ROOT / "tox.ini").read_text(encoding="utf-8")
ENVIRONMENT = re.compile(
    r"^\[testenv:([\w-]*)(?:\{([\w,]+)\})?([\w-]*)\]$", re.MULTILINE
)


def environments() -> set[str]:
    """Return the names of tox's environments; "py" is one anywhere."""
    names = {"py", *TOX.partition("env_list =")[2].partition("[testenv]")[0].split()}
    for head, choices, tail in ENVIRONMENT.findall(TOX):
        names.update(head + choice + tail for choice in choices.split(","))
    return names


def supported() -> dict[str, str]:
    """Return the versions of each row."""
    _, _, section = README.partition("\nSupported versions\n")
    table, _, _ = section.partition("\n\nThe tests")
    rows = (re.split(r"  +", line) for line in table.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 3}


def test_environments_exist() -> None:
    text = "\n".join(map(read, DOCUMENTS))
    named = re.findall(r"``tox -e ([\w,-]+)|^ +tox -e ([\w,-]+)", text, re.MULTILINE)
    names = {name for pair in named for one in pair for name in one.split(",") if name}

    assert len(names) >= 15
    assert names <= environments()


def test_supported_pythons() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    classified = re.findall(r"Python :: 3\.(\d+)\"", project)
    first, last = re.findall(r"3\.(\d+)", supported()["CPython"])
    every = [str(minor) for minor in range(int(first), int(last) + 1)]
    assert classified == every
    assert {f"py3{minor}" for minor in every} <= environments()
    for classifier, row in (("Free Threading", "free-threaded"), ("PyPy", "PyPy")):
        assert (f':: {classifier}"' in project) == (row in supported())

    assert f'requires-python = ">=3.{first}"' in project


def test_oldest_kazoo() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest, _, _ = supported()["kazoo"].partition(" to ")

    assert f'dependencies = ["kazoo>={oldest}"]' in project
    assert f"deps = kazoo=={oldest}\n" in TOX


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_warning_of_fork(hosts: str) -> None:
    (block,) = (block for block in blocks() if "use of fork" in block)
    program = f"""
import os, sys, warnings
from kazoo.client import KazooClient
from kazoo_seqthreading import SequentialThreadingHandler

client = KazooClient(sys.argv[1], handler=SequentialThreadingHandler())
client.start()
for quiet in False, True:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if quiet:
            exec({block!r})
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
    print(*(warning.category.__name__ for warning in caught))
client.stop()
client.close()
"""
    done = run_python(program, hosts)
    cpython = sys.implementation.name == "cpython"
    warns = "DeprecationWarning" if cpython and sys.version_info >= (3, 12) else ""

    assert (done.stderr, done.stdout) == ("", f"{warns}\n\n")


# -- what is documented ----------------------------------------------------------------


def test_names_in_all() -> None:
    for name in ("BlockingCallError", "BlockingCallWarning", "TimeoutError"):
        assert name in kazoo_seqthreading.__all__
        assert name in README


def test_options_are_documented() -> None:
    defaults = kazoo_seqthreading.SequentialThreadingHandler.__init__.__kwdefaults__
    assert defaults
    for name, default in defaults.items():
        row = next(line for line in README.splitlines() if line.startswith(f"``{name}"))
        assert row.split()[1].strip("`") == str(default)


# -- the design ------------------------------------------------------------------------


def source_of(module: str) -> str:
    return read(f"kazoo_seqthreading/{module}.py")


def test_modules_are_listed_once() -> None:
    _, _, section = DESIGN.partition("\nModules\n-------\n")
    listed = re.findall(r"``(_\w+)``", section.partition("\nTerms\n-----\n")[0])
    package = (ROOT / "kazoo_seqthreading").glob("_*.py")
    modules = {path.stem for path in package} - {"__init__", "__main__", "_version"}

    assert sorted(listed) == sorted(modules)


def test_drawing_names_modules() -> None:
    drawing = DESIGN.partition("::\n\n")[2].partition("\n\nFive questions")[0]
    named = set(re.findall(r"(?<![\w.])(_[a-z]\w+)", drawing))
    assert len(named) >= 10
    for module in named:
        assert source_of(module)


def test_rules_of_guarantees_exist() -> None:
    _, _, section = DESIGN.partition("\nWhat is guaranteed\n")
    section = section.partition("\nModules\n-------\n")[0]
    guarantees = re.split(r"^\d+\. ", section, flags=re.MULTILINE)[1:]
    assert len(guarantees) == 15
    for guarantee in guarantees:
        named = re.findall(r"``(_\w+)``\s*((?:\d+(?:,\s+)?)*)", guarantee)
        assert named, guarantee
        for module, numbers in named:
            rules = ast.get_docstring(ast.parse(source_of(module))) or ""
            for number in re.findall(r"\d+", numbers):
                assert re.search(rf"^{number}\. ", rules, re.MULTILINE), guarantee


def test_each_question_is_answered_by_one_file() -> None:
    _, _, section = DESIGN.partition("\nFive questions")
    answers = section.partition("\n\n\n")[0].split("\n- ")[1:]
    assert len(answers) == 5
    for answer in answers:
        (module,) = set(re.findall(r"``(_\w+)\.py``", answer))
        names = re.findall(r"``(\w+)``", answer)
        quoted = re.findall(r'"([^"]+)"', " ".join(answer.split()))
        for name in names:
            assert re.search(rf"(def|class) {name}\b", source_of(module)), name
        for part in quoted:
            assert f"# -- {part} --" in source_of(module), part


def test_switch_of_the_steps() -> None:
    (name,) = set(re.findall(r"KAZOO_SEQTHREADING_\w+", DESIGN))
    assert f'os.environ.get("{name}") != "0"' in source_of("_steps")


# -- what is shown ---------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS)
def test_document_renders(path: str) -> None:
    core = pytest.importorskip("docutils.core")
    messages = io.StringIO()
    settings = {"report_level": 2, "halt_level": 5, "warning_stream": messages}
    html = core.publish_string(
        read(path),
        writer="html5",
        settings_overrides={**settings, "raw_enabled": False},
    )

    assert messages.getvalue() == ""
    # A dash alone in a cell is a list.
    assert not re.search(r"<li>(<p>)?(</p>)?</li>", html.decode())


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_lead_somewhere(path: str) -> None:
    text = read(path)
    targets = links.LINK.findall(text) + links.PICTURE.findall(text)
    for target in targets:
        assert (ROOT / path).parent.joinpath(target).is_file(), target


def test_links_are_absolute_when_published() -> None:
    address, ref = "https://example.org/owner/name", "v1.2.3"
    text = links.absolute(README, address, ref)
    assert links.LINK.findall(text) == links.PICTURE.findall(text) == []
    assert not re.search(r"`[^`]+ <(?!https://)", text)
    count = len(links.LINK.findall(README)) + len(links.PICTURE.findall(README))
    assert text.count(f"{address}/") == count
    project = links.with_urls(read("pyproject.toml"), address, ref)

    assert project.count("[project.urls]") == 1
    assert links.with_urls(project, address, ref) == project
