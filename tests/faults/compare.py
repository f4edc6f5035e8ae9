"""Run the fault suite with kazoo's handler and with ours, and print a table.

::

    python tests/faults/compare.py [--quick] [-k EXPRESSION] [--output FILE]

Each test runs in a process of its own, which is killed when it takes longer than
``--limit`` seconds: then the scenario counts as hung. Where a scenario has several
tests (TCP and TLS, ways to cut), its row holds the worst that became of them. The last
column has the causes that our handler names, which the tests check; "-" is a test that
does not run with kazoo's handler.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent.parent
HANDLERS = ("kazoo", "ours")
#: From best to worst.
OUTCOMES = ("-", "ok", "fails", "never recovers", "hangs")
#: What the message of a failure has to say for the last two.
SIGNS = {
    "never recovers": "does not work",
    "hangs": "not return|no answer|callback did not run|TimeoutError|not noticed",
}


def pytest_command(*arguments: str) -> list[str]:
    """Return the command that runs pytest as the suite needs it."""
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]


def collect(marker: str, keyword: str) -> list[str]:
    """Return the node ids of the tests."""
    command = pytest_command("--collect-only", "-m", marker, "-k", keyword)
    listed = subprocess.run(
        [*command, str(ROOT / "tests/faults")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    tests = [line for line in listed.stdout.splitlines() if "::" in line]
    if not tests:
        sys.exit(f"no tests:\n{listed.stdout}{listed.stderr}")
    return tests


def run(test: str, handler: str, limit: float) -> tuple[str, str, str, str]:
    """Run one test; return scenario, causes, outcome, and what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = pytest_command(
            f"--handler={handler}",
            f"--junitxml={report}",
            "--override-ini=junit_family=xunit1",
            "--runxfail",
            "-m",
            "faults or not faults",
            test,
        )
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "", "", "hangs", f"not done within {limit:.0f} s"
        if not report.exists():
            return "", "", "hangs", "the test was cut off"
        return parse(report)


def parse(report: Path) -> tuple[str, str, str, str]:
    """Return what *report* says: scenario, causes, outcome, and what went wrong."""
    case = ElementTree.parse(report).getroot().find(".//testcase")
    if case is None:
        return "", "", "fails", "was not run"
    properties = {one.get("name"): one.get("value") for one in case.iter("property")}
    scenario, causes = properties.get("scenario") or "", properties.get("causes") or ""
    if case.find("skipped") is not None:
        return scenario, causes, "-", ""
    problem = case.find("failure")
    if problem is None:
        problem = case.find("error")
    if problem is None:
        return scenario, causes, "ok", ""
    text = problem.get("message", "")
    outcome = next(
        (outcome for outcome, signs in SIGNS.items() if re.search(signs, text)), "fails"
    )
    return scenario, causes, outcome, text.partition("\n")[0]


def table(rows: list[tuple[str, ...]]) -> str:
    """Return *rows*, of which the first is the head, as a table in RST."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    line = "  ".join("=" * width for width in widths)
    texts = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([line, texts[0], line, *texts[1:], line])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the short version only")
    parser.add_argument("--limit", type=float, default=180.0, metavar="SECONDS")
    parser.add_argument("--output", type=Path, metavar="FILE")
    parser.add_argument("-k", dest="keyword", default="", metavar="EXPRESSION")
    arguments = parser.parse_args()
    marker = "not faults" if arguments.quick else "not soak"
    tests = collect(marker, arguments.keyword)
    worst: dict[str, dict[str, int]] = defaultdict(dict)
    scenarios: dict[str, str] = {}
    all_causes: dict[str, str] = {}
    for number, test in enumerate(tests, 1):
        for handler in HANDLERS:
            scenario, causes, outcome, problem = run(test, handler, arguments.limit)
            function = test.partition("[")[0]
            scenarios[function] = scenario or scenarios.get(function, function)
            all_causes[function] = causes or all_causes.get(function, "")
            rank = OUTCOMES.index(outcome)
            worst[function][handler] = max(worst[function].get(handler, 0), rank)
            text = f"[{number}/{len(tests)}] {handler}: {outcome} {test} {problem}"
            print(text, file=sys.stderr, flush=True)
    rows: list[tuple[str, ...]] = [
        ("Fault", "kazoo's handler", "this handler", "cause")
    ]
    for function, outcomes in worst.items():
        marks = [OUTCOMES[outcomes[handler]] for handler in HANDLERS]
        rows.append((scenarios[function], *marks, all_causes[function]))
    text = table(rows)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
