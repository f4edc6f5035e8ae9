"""The tests of projects that use kazoo, with kazoo's handler and with ours.

::

    python -m tests.neighbours [--handler {kazoo,ours,both}] [PROJECT ...]

``tox -e neighbours`` installs the projects. What each of them tests on kazoo runs with
either handler, on a fresh ZooKeeper, and the outcomes are compared test by test. It
fails where they differ, where a run does not end in time, and where nothing ran.

The module is a pytest plugin, too. As such it prepares the surroundings of these tests,
never a test; ``replacement.py`` replaces the handler.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Optional
from xml.etree import ElementTree

import pytest

from tests import replacement
from tests.zookeeper import ZooKeeper

ROOT = Path(__file__).parent.parent

#: How long the tests of a project may take, and one of them, in seconds.
TIMEOUT, LIMIT_OF_TEST = 240.0, 60.0

#: ZooKeeper's own defaults: these projects are not made for shorter sessions.
CONFIG = {"tickTime": "2000", "minSessionTimeout": "4000", "maxSessionTimeout": "40000"}

#: The options of pytest that choose a handler.
HANDLERS = {"kazoo": ["--stock"], "ours": []}
TITLES = {"kazoo": "kazoo's handler", "ours": "ours"}


@dataclass(frozen=True)
class Project:
    """Which of a project's tests use kazoo.

    :param tests: modules, or with *sdist* paths in the source distribution
    :param select: as ``pytest -k`` takes it
    :param variables: the environment that tells the tests where ZooKeeper is
    :param plugins: what else prepares the tests
    """

    tests: Sequence[str]
    select: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    sdist: bool = False
    plugins: Sequence[str] = ()


PROJECTS = {
    # It orders jobs by the time of their creation: two in a millisecond have no order.
    "apscheduler": Project(
        ["tests/test_jobstores.py"],
        "zookeeper and not test_update_job_clear_next_runtime",
        sdist=True,
    ),
    "patroni": Project(["tests/test_zookeeper.py"], sdist=True),
    "taskflow": Project(
        [
            "taskflow.tests.unit.jobs.test_zk_job",
            "taskflow.tests.unit.persistence.test_zk_persistence",
            "taskflow.tests.unit.test_conductors",
            "taskflow.tests.unit.test_listeners",
            "taskflow.tests.unit.utils.test_kazoo_utils",
        ],
        "ZookeeperJobboard or ZkPersistence or ManyConductor or NonBlockingExecutor "
        "or ClaimListener or MakeClient",
        {"TASKFLOW_TEST_ZOOKEEPER_PORT": "{port}"},
    ),
    "tooz": Project(
        ["tooz.tests.test_coordination", "tooz.tests.test_partitioner"],
        "not TestHook and not FileTest and not IPCTest",
        {"TOOZ_TEST_URL": "zookeeper://{hosts}?handler=threading"},
    ),
    # It has kazoo's harness start servers. One, since it reads what another session
    # wrote; so there is no reconfiguration. And servers do not tell digests any more.
    "zk-shell": Project(
        ["zk_shell.tests"],
        "not test_reconfig and not test_set_get_acls",
        {"ZOOKEEPER_CLUSTER_SIZE": "1"},
        plugins=["tests.kazoo_suite"],
    ),
}


class Failure(Exception):
    """The tests of a project did not run as they should."""


# -- the plugin ------------------------------------------------------------------------


def pytest_configure() -> None:
    # Who names no server finds ours.
    init: Any = importlib.import_module("kazoo.client").KazooClient.__init__
    init.__defaults__ = (os.environ["ZOOKEEPER_HOSTS"], *init.__defaults__[1:])


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: Any) -> Any:
    """Collect a class once for each of its scenarios, as testscenarios runs it."""
    if not (isinstance(obj, type) and issubclass(obj, unittest.TestCase)):
        return None
    scenarios: Any = getattr(obj, "scenarios", None)
    if not scenarios:
        return None
    found: list[Any] = []
    for scenario, attributes in scenarios:
        members = {"__module__": obj.__module__, **attributes, "scenarios": None}
        cls = type(f"{name}_{scenario}", (obj,), members)
        setattr(collector.obj, cls.__name__, cls)
        found.append(
            collector.ihook.pytest_pycollect_makeitem(
                collector=collector, name=cls.__name__, obj=cls
            )
        )
    return found


def pytest_sessionfinish(session: pytest.Session) -> None:
    # Tests that make no handler of kazoo's say nothing about ours.
    if session.config.getoption("--stock") and not replacement.stock_was_used():
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


# -- the runner ------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What became of a test."""

    kind: str
    details: str = ""


Outcomes = dict[str, Outcome]

NOT_RUN = Outcome("not run")

#: The kinds, each under what a report has for it.
KINDS = {"failure": "failed", "error": "error", "skipped": "skipped"}


def compare(name: str, handlers: Sequence[str], folder: Path) -> bool:
    """Run a project's tests, and print the outcomes.

    :param folder: for what that writes
    :returns: whether the outcomes are the same with all *handlers*
    :raises Failure: if the tests do not run
    """
    installed = importlib.metadata.distribution(name)
    print(f"{name + ' ' + installed.version:<20}", end="", flush=True)
    project = PROJECTS[name]
    tests, root = project.tests, Path(str(installed.locate_file("")))
    if project.sdist:
        root = unpack(name, installed.version, folder)
        tests = [str(root / test) for test in tests]
    found = []
    for handler in handlers:
        began = time.monotonic()
        found.append(run(project, handler, tests, root, folder / handler))
        took = time.monotonic() - began
        print(f"{summary(found[-1])} ({took:.0f} s)".ljust(44), end="", flush=True)
    differences = [
        test
        for test in sorted(set().union(*found))
        if len({outcomes.get(test, NOT_RUN).kind for outcomes in found}) > 1
    ]
    print(f"{len(differences)} differ" if differences else "the same", flush=True)
    for test in differences:
        for handler, outcomes in zip(handlers, found):
            outcome = outcomes.get(test, NOT_RUN)
            print(f"\n{test} with {handler}: {outcome.kind}\n{outcome.details}")
    return not differences


def unpack(name: str, version: str, folder: Path) -> Path:
    """Return the folder of a project's source distribution, which has its tests."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps"]
    command += ["--no-binary", name, "--dest", str(folder), f"{name}=={version}"]
    pip = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if pip.returncode:
        raise Failure(f"there is no source distribution:\n{pip.stdout}")
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder)
    return folder / archive.name[: -len(".tar.gz")]


def run(
    project: Project, handler: str, tests: Sequence[str], root: Path, folder: Path
) -> Outcomes:
    """Run the tests of a project with a handler, and return what became of them.

    :param root: of the tests' names
    :param folder: for what the run writes
    :raises Failure: if it does not end as it should, or not in time
    """
    folder.mkdir()
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(root)]
    for plugin in ("tests.replacement", "tests.neighbours", *project.plugins):
        command += ["-p", plugin]
    command += ["-p", "no:cacheprovider", "--import-mode", "importlib"]
    command += ["--timeout", str(LIMIT_OF_TEST), "--junitxml", str(report)]
    command += [*HANDLERS[handler], "-k", project.select, "--pyargs", *tests]
    with ZooKeeper(config=CONFIG) as zookeeper:
        (node,) = zookeeper.nodes
        variables = {
            variable: value.format(hosts=zookeeper.hosts, port=node.port)
            for variable, value in project.variables.items()
        }
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "ZOOKEEPER_HOSTS": zookeeper.hosts,
            **variables,
        }
        status = execute(command, environment, folder)
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise Failure(f"the tests ended with status {status}:\n{end_of_log(folder)}")
    outcomes = read(report)
    if not any(outcome.kind == "passed" for outcome in outcomes.values()):
        raise Failure(f"no test has passed:\n{end_of_log(folder)}")
    return outcomes


def execute(command: Sequence[str], environment: dict[str, str], folder: Path) -> int:
    """Run a command in a folder, where its output goes; return its status."""
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=environment,
            start_new_session=True,  # what it starts can be killed with it
        )
        try:
            return process.wait(TIMEOUT)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                text = f"not within {TIMEOUT} s:\n{end_of_log(folder)}"
                raise Failure(text) from None
            raise


def end_of_log(folder: Path) -> str:
    """Return the end of what a run has printed."""
    lines = (folder / "log").read_text(errors="replace").splitlines()
    return "\n".join(lines[-60:])


def read(report: Path) -> Outcomes:
    """Return what a report of pytest's tells."""
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = Outcome("passed")
        for child in case:
            if child.tag in KINDS:
                outcome = Outcome(KINDS[child.tag], child.text or "")
        outcomes[f"{case.get('classname')}.{case.get('name')}"] = outcome
    return outcomes


def summary(outcomes: Outcomes) -> str:
    """Return how many tests had which outcome."""
    kinds = Counter(outcome.kind for outcome in outcomes.values())
    return ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Compare what is asked for; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.neighbours",
        description="Run the tests of projects that use kazoo with its own handler and "
        "with ours, and compare the outcomes.",
    )
    parser.add_argument(
        "--handler", choices=[*HANDLERS, "both"], default="both", help="(default: both)"
    )
    parser.add_argument(
        "projects",
        nargs="*",
        metavar="PROJECT",
        help=f"{', '.join(PROJECTS)} (default: all)",
    )
    options = parser.parse_args(arguments)
    unknown = set(options.projects) - set(PROJECTS)
    if unknown:
        parser.error(f"no such project: {', '.join(sorted(unknown))}")
    handlers = list(HANDLERS) if options.handler == "both" else [options.handler]
    print(" " * 20 + "".join(TITLES[handler].ljust(44) for handler in handlers))
    good = True
    for name in options.projects or PROJECTS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                good &= compare(name, handlers, Path(folder))
            except Failure as failure:
                print(failure)
                good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
