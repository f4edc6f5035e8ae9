"""The benchmark runs from end to end, and what is documented was measured."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.benchmarks import apache, figures, idle, measure, readme, report, rows
from tests.benchmarks.measure import Sample, Spread, Task
from tests.benchmarks.progress import Progress
from tests.support import ROOT

RESULTS = Path(__file__).with_name("results.json")

TINY = ["--quick", "--rounds", "1", "--scale", "0.004"]


def run(
    hosts: str, *arguments: str, timeout: float = 240.0
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.benchmarks", *arguments],
        cwd=ROOT,
        env={**os.environ, "ZOOKEEPER_HOSTS": hosts},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def spreads(value: Any) -> Iterator[dict[str, float]]:
    """Find all spreads in the JSON."""
    if isinstance(value, dict):
        if value.keys() == {"median", "low", "high"}:
            yield value
        yield from chain.from_iterable(map(spreads, value.values()))
    elif isinstance(value, list):
        yield from chain.from_iterable(map(spreads, value))


@pytest.mark.timeout(300)
def test_everything_is_measured(hosts: str, tmp_path: Path, client: Any) -> None:
    pytest.importorskip("trustme")
    path = tmp_path / "figures.json"
    done = run(hosts, *TINY, "--json", str(path))
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert list(found["rows"]) == list(rows.ROWS)
    assert found["figures"].keys() >= {*figures.FLOORS, "size", *figures.PARTS}
    assert list(found["growth"]) == list(figures.GROWTHS)
    for spread in spreads([found["rows"], found["growth"]]):
        assert 0 < spread["low"] <= spread["median"] <= spread["high"]
    for key, row in found["rows"].items():
        assert {"kazoo", "ours"} <= row["rate"].keys()
        assert (rows.BOUND in row["rate"]) == (key in rows.IN_ONE_THREAD)
        assert re.search(f"^{re.escape(row['title'])}  .*[0-9]", done.stdout, re.M)
    for name in ("Python", "kazoo", "ZooKeeper", "cores"):
        assert f"{name} {found['versions'][name]}" in done.stdout

    assert "  0%  size of a result" in done.stderr
    assert asdict(report.load(str(path))) == found
    assert client.get_children("/") == [], "the benchmark has left a node behind"


@pytest.mark.timeout(300)
def test_peers(hosts: str, tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    done = run(hosts, *TINY, "--rows", "sync", "--peers", "--json", str(path))
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert found["peers"].keys() >= {"kazoo", "ours"}
    assert len(found["peers"]) + len(found["notes"]) == 6, "each is told of"
    for spread in spreads(found["peers"]):
        assert 0 < spread["low"] <= spread["median"] <= spread["high"]


def test_c_client_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apache, "LIBRARY", "libnone.so")
    with pytest.raises(PackageNotFoundError):
        apache.find()


def test_idle_client_that_is_not_idle_is_seen() -> None:
    busy = "import time\nwhile True: time.sleep(0.01)"
    with subprocess.Popen([sys.executable, "-c", busy]) as process:
        try:
            counted = idle.count(process.pid, 0.5)
        finally:
            process.kill()
    assert counted is None or counted[1] > 5


def test_chart(hosts: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "chart.svg"
    done = run(hosts, *TINY, "--rows", "pipelined", "sync", "--svg", str(path))

    assert done.returncode == 0, done.stderr
    assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert "pipelined reads" in path.read_text()


def test_tables_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "README.rst"
    path.write_text(f"head\n{readme.BEGIN}old{readme.END}\ntail\n")
    done = run("127.0.0.1:1", "--show", str(RESULTS), "--readme", str(path))
    assert done.returncode == 0, done.stderr
    assert readme.extract(path) == readme.render(report.load(str(RESULTS)))
    text = path.read_text()

    assert text.startswith("head\n")
    assert text.endswith("\ntail\n")
    assert "old\n" not in text


def test_documented_figures_are_those_that_were_measured() -> None:
    found = report.load(str(RESULTS))
    folder = Path(__file__).parent
    assert readme.extract(folder / "README.rst") == readme.render(found)
    chart = (folder / "results.svg").read_text(encoding="utf-8")
    for row in found.rows.values():
        assert f"<!-- {row.title} -->" in chart
        for ratio in (row.rate_ratio, *([row.cpu_ratio] if row.p50 is None else [])):
            assert f"<!-- {ratio.median:.2f} -->" in chart, row.title


@pytest.mark.parametrize(
    "arguments",
    [["--rows", "nothing"], ["--rounds", "0"], ["--scale", "-1"], ["--scale", "x"]],
)
def test_bad_arguments(arguments: list[str]) -> None:
    done = run("127.0.0.1:1", *arguments)
    assert done.returncode == 2
    assert f"error: argument {arguments[0]}: invalid" in done.stderr


def test_rounds_are_interleaved() -> None:
    taken: list[str] = []

    def subject(name: str, operations: int) -> Any:
        def take() -> Sample:
            taken.append(name)
            return Sample(operations, 1.0, 2.0)

        return take

    tasks = {
        "one": Task("one", {"a": subject("a", 1), "b": subject("b", 2)}),
        "other": Task("other", {"c": subject("c", 3)}, rounds=1),
    }
    steps: list[str] = []
    samples = measure.run_rounds(tasks, 3, steps.append)

    assert taken == [*"bac", *"abc", *"ba", *"ab"]
    assert len(steps) == measure.count_samples(tasks, 3) == len(taken)
    assert {name: len(found) for name, found in samples["one"].items()} == {
        "a": 3,
        "b": 3,
    }
    assert len(samples["other"]["c"]) == 1
    assert measure.ratio(samples["one"], "b", "a", report.rate) == Spread(2, 2, 2)
    assert measure.spread(samples["one"], "a", report.cpu) == Spread(2e6, 2e6, 2e6)


def test_spread_is_median_and_quartiles() -> None:
    assert Spread.of([5, 1, 3, 2, 4]) == Spread(3, 2, 4)
    assert Spread.of([7]) == Spread(7, 7, 7)


def exactly(value: float) -> Spread:
    return Spread(value, value, value)


def sample_row(
    rate: float, share: float, cpu: float, **options: Any
) -> report.RowReport:
    values: dict[str, Any] = {"at_least": 3.0, "at_most": 0.2, **options}
    return report.RowReport(
        "row", {}, {}, exactly(rate), exactly(cpu), exactly(share), **values
    )


def test_what_counts_as_reached() -> None:
    assert sample_row(rate=3.0, share=0.1, cpu=0.2).is_fast
    assert not sample_row(rate=2.9, share=0.89, cpu=0.2).is_fast
    assert sample_row(rate=2.9, share=0.9, cpu=0.2).is_fast
    assert sample_row(rate=2.9, share=0.9, cpu=0.2).is_cheap
    assert not sample_row(rate=9.0, share=0.9, cpu=0.21).is_cheap


def test_row_that_is_to_be_as_the_raw_socket() -> None:
    options: Any = {"rate": 9.0, "cpu": 0.2, "at_least": None, "as_raw": True}
    assert not sample_row(share=0.89, **options).is_fast
    row = sample_row(share=0.9, **options)
    assert row.is_fast
    row.rate = {"kazoo": exactly(2), rows.RAW_SOCKET: exactly(8)}

    assert row.rate_target == pytest.approx(3.6)


def test_row_without_targets() -> None:
    row = sample_row(rate=0.1, share=0.1, cpu=9.0, at_least=None, at_most=None)
    assert row.is_fast is None
    assert row.is_cheap is None


def test_row_whose_p50_counts() -> None:
    slow, quick = (Sample(2, 1.0, 1.0, p50) for p50 in (0.04, 0.01))
    row = report.of_row("busy", {"kazoo": [slow], "ours": [quick]})
    assert row.rate_ratio.median == pytest.approx(4)
    assert row.p50 == {"kazoo": exactly(40), "ours": exactly(10)}
    calls = iter([0.0, 0.05, 0.0])

    assert 0 <= measure.take_each(lambda: time.sleep(next(calls)), 3).p50 < 0.05


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_plain_without_a_terminal() -> None:
    stream = StringIO()
    progress = Progress(2, stream)
    progress.step("first")
    progress.step("second")
    progress.close()

    assert stream.getvalue() == "  0%  first\n", "a line now and then"


def test_progress_is_a_bar_in_a_terminal() -> None:
    stream = Terminal()
    progress = Progress(2, stream)
    progress.step("first")
    progress.step("second")
    assert stream.getvalue().endswith("left  second")
    assert "[############............]  50% " in stream.getvalue()
    progress.close()

    assert stream.getvalue().endswith("\r\x1b[K")
