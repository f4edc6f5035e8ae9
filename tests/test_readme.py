"""The README's code blocks run, one after the other, on the real server."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

import kazoo_seqthreading

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:(?:    .*)?\n)+)", re.MULTILINE)


def blocks() -> list[str]:
    readme = (ROOT / "README.rst").read_text(encoding="utf-8")
    return [textwrap.dedent(block) for block in BLOCK.findall(readme)]


@pytest.fixture
def names(hosts: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """The names that the blocks leave, after they have run."""
    namespace: dict[str, Any] = {"__name__": "readme"}
    clients: dict[int, Any] = {}
    try:
        for block in blocks():
            # Whoever copies a block has a server there; here it is the test's.
            source = block.replace("127.0.0.1:2181", hosts)
            exec(compile(source, "README.rst", "exec"), namespace)
            clients[id(namespace["client"])] = namespace["client"]
            if "ZooKeeperCollector" in block:
                namespace["metrics"] = prometheus_client.generate_latest().decode()
        namespace["output"] = capsys.readouterr().out
        yield namespace
    finally:
        for client in clients.values():
            client.stop()
            client.close()
        for collector in list(prometheus_client.REGISTRY._collector_to_names):
            if type(collector).__name__ == "ZooKeeperCollector":
                prometheus_client.REGISTRY.unregister(collector)


def test_blocks(names: dict[str, Any]) -> None:
    assert len(blocks()) >= 9
    output = names["output"].splitlines()
    assert output[0].startswith("[")  # the children of the root
    assert output[1] == "(b'verbose', ['config'])"
    assert sorted(line.split()[0] for line in output[2:5]) == [
        "/",
        "/app",
        "/app/config",
    ]
    assert output[5] == "r-17 b'verbose'"
    assert isinstance(names["stats"], kazoo_seqthreading.Stats)
    assert names["stats"].requests > 0


def test_prometheus(names: dict[str, Any]) -> None:
    families = {
        family.name: family
        for family in text_string_to_metric_families(names["metrics"])
    }
    assert families["zk_requests"].samples[0].value > 0
    queues = {sample.labels["queue"] for sample in families["zk_queue_depth"].samples}
    assert queues == {"completions", "watches"}


def test_names_in_all() -> None:
    readme = (ROOT / "README.rst").read_text(encoding="utf-8")
    for name in ("BlockingCallError", "BlockingCallWarning", "TimeoutError"):
        assert name in kazoo_seqthreading.__all__
        assert name in readme


def test_options_are_documented() -> None:
    readme = (ROOT / "README.rst").read_text(encoding="utf-8")
    defaults = kazoo_seqthreading.SequentialThreadingHandler.__init__.__kwdefaults__
    assert defaults
    for name, default in defaults.items():
        row = next(line for line in readme.splitlines() if line.startswith(f"``{name}"))
        assert row.split()[1].strip("`") == str(default)
