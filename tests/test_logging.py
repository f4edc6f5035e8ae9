"""What is logged: no secret, and nothing that is not documented."""

from __future__ import annotations

import ast
import logging
import re
import ssl
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kazoo.security import make_digest_acl

import kazoo_seqthreading
from kazoo_seqthreading import SequentialThreadingHandler
from tests.support import ROOT, TIMEOUT, Gate, wait_until

if TYPE_CHECKING:
    from tests.support import MakeClient
    from tests.zookeeper import ZooKeeper

PACKAGE = "kazoo_seqthreading"

# -- secrets ---------------------------------------------------------------------------

PASSWORD, KEY_PASSWORD, VALUE = "s3cret-pass", "s3cret-key", "s3cret-value"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the package logs, at every level."""
    caplog.set_level(logging.DEBUG, PACKAGE)
    return caplog


def assert_no_secret(*texts: str) -> None:
    for text in texts:
        assert "s3cret" not in text


def logged(log: pytest.LogCaptureFixture) -> Counter[tuple[str, str]]:
    """Return the package's loggers and levels, and how often they were used."""
    return Counter(
        (record.name.partition(".")[2], record.levelname)
        for record in log.records
        if record.name.startswith(PACKAGE)
    )


def assert_none_logged(log: pytest.LogCaptureFixture) -> None:
    """Look for secrets in the messages, and in the tracebacks that go with them."""
    formatter = logging.Formatter("%(message)s")
    for record in log.records:
        if record.name.startswith(PACKAGE):
            assert_no_secret(formatter.format(record))


def encrypt(key: str, folder: Path) -> str:
    """Return the file of a private key, encrypted with ``KEY_PASSWORD``."""
    from cryptography.hazmat.primitives import serialization as pem

    loaded = pem.load_pem_private_key(Path(key).read_bytes(), password=None)
    path = folder / "encrypted.key"
    path.write_bytes(
        loaded.private_bytes(
            pem.Encoding.PEM,
            pem.PrivateFormat.PKCS8,
            pem.BestAvailableEncryption(KEY_PASSWORD.encode()),
        )
    )
    return str(path)


def test_no_secret_of_a_client_is_logged(
    make_client: MakeClient,
    tls_server: ZooKeeper,
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
) -> None:
    def fail(secret: object, argument: object) -> None:
        raise ValueError("on purpose")

    assert tls_server.tls is not None
    handler = SequentialThreadingHandler(stop_timeout=0.1, slow_callback_duration=0.2)
    client = make_client(
        hosts=tls_server.tls_hosts,
        handler=handler,
        auth_data=[("digest", f"user:{PASSWORD}")],
        use_ssl=True,
        ca=tls_server.tls.ca,
        certfile=tls_server.tls.client_cert,
        keyfile=encrypt(tls_server.tls.client_key, tmp_path),
        keyfile_password=KEY_PASSWORD,
    )
    client.start(TIMEOUT)
    acl = [make_digest_acl("user", PASSWORD, all=True)]
    client.create("/secret", VALUE.encode(), acl, ephemeral=True)
    client.get_async("/secret").rawlink(partial(fail, VALUE))
    client.get("/secret", watch=partial(fail, VALUE))
    client.set("/secret", VALUE.encode())
    wait_until(lambda: logged(log)["worker", "ERROR"] == 2)
    with Gate() as inside:
        client.get_async("/secret").rawlink(partial(inside, VALUE))
        inside.wait_entered()
        client.get_async("/secret").rawlink(partial(fail, VALUE))
        wait_until(lambda: logged(log)["watchdog", "WARNING"])
        assert_no_secret(repr(handler), repr(handler.stats()), handler.report())
        client.stop()  # does not wait for the callback
    wait_until(lambda: logged(log)["worker", "ERROR"] == 3)  # what was behind it
    handler.completion_queue.put(partial(fail, VALUE, VALUE))  # runs here
    assert logged(log).keys() >= {
        ("worker", "ERROR"),
        ("watchdog", "WARNING"),
        ("handler", "ERROR"),
    }
    assert_none_logged(log)
    assert_no_secret(repr(handler), repr(handler.stats()), handler.report())


def test_no_secret_of_a_key_is_in_an_error(
    make_client: MakeClient,
    tls_server: ZooKeeper,
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
) -> None:
    assert tls_server.tls is not None
    handler = SequentialThreadingHandler()
    options: dict[str, Any] = {
        "use_ssl": True,
        "ca": tls_server.tls.ca,
        "certfile": tls_server.tls.client_cert,
        "keyfile": encrypt(tls_server.tls.client_key, tmp_path),
    }
    wrong = {**options, "keyfile_password": f"{KEY_PASSWORD}-of-another"}
    host, port = tls_server.tls_hosts.split(":")
    address = (host, int(port))
    handler.create_connection(
        address, timeout=TIMEOUT, **options, keyfile_password=KEY_PASSWORD
    ).close()
    with pytest.raises(ssl.SSLError) as caught:
        handler.create_connection(address, timeout=TIMEOUT, **wrong)
    assert_no_secret(str(caught.value), repr(caught.value))
    client = make_client(hosts=tls_server.tls_hosts, handler=handler, **wrong)
    with pytest.raises(handler.timeout_exception) as timed_out:
        client.start(timeout=0.5)
    assert_no_secret(str(timed_out.value), repr(handler), repr(handler.stats()))
    assert_no_secret(handler.report())
    assert_none_logged(log)


# -- the documentation -----------------------------------------------------------------

#: The methods of a logger, and the level that each logs at.
METHODS = {
    "debug": "DEBUG",
    "info": "INFO",
    "warning": "WARNING",
    "error": "ERROR",
    "exception": "ERROR",
    "critical": "CRITICAL",
}
ROW = re.compile(r"^``(\w+)``\s+([A-Z]+)\s+\S", re.MULTILINE)


def constants(call: ast.Call) -> list[ast.Constant]:
    return [node for node in call.args if isinstance(node, ast.Constant)]


def used_by(path: Path) -> set[tuple[str, str]]:
    """Return the logger and the levels that a module of the package uses."""
    levels, names = set[str](), set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) == "logging.getLogger":
                names.update(ast.literal_eval(argument) for argument in constants(node))
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if owner == "_log":  # called here, or in the background
                levels.add(METHODS[node.attr])
            elif owner == "logging":  # what this test would not see
                assert node.attr not in (*METHODS, "log"), f"{path}: {node.attr}"
    if not levels:
        return set()
    (name,) = names
    package, _, short = name.rpartition(".")
    assert package == PACKAGE
    return {(short, level) for level in levels}


def test_what_is_logged_is_documented() -> None:
    package = Path(kazoo_seqthreading.__file__).parent
    used = set[tuple[str, str]]().union(*map(used_by, package.glob("*.py")))
    assert ("watchdog", "WARNING") in used
    text = (ROOT / "kazoo_seqthreading/DIAGNOSIS.rst").read_text(encoding="utf-8")
    section = text.partition("\nLogging\n-------\n")[2].partition("\n---")[0]
    documented = ROW.findall(section)

    assert sorted(documented) == sorted(used)
