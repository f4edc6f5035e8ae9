"""Other handlers and clients on the same server, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from tests.benchmarks import apache, rows
from tests.benchmarks.measure import Sample, Task
from tests.benchmarks.subjects import KAZOO, OURS, Site
from tests.support import ROOT

#: How long a process may take, in seconds.
TIMEOUT = 120.0

#: What a process of ``peer`` measures.
WORKS = {"pipelined": rows.ROWS["pipelined"].title, "sync": rows.ROWS["sync"].title}
#: The peers, and how to find what has to be installed for each: it has a version.
PEERS: dict[str, Callable[[], str]] = {
    OURS: str,
    KAZOO: str,
    **{name: partial(version, name) for name in ("gevent", "eventlet", "aiozk")},
    "C client": apache.find,
}


class PeerFailed(Exception):
    """A peer did not get through the work."""


class Peers:
    """Measures peers; one process does both works, one after the other."""

    def __init__(self, site: Site, reads: int) -> None:
        self._site = site
        self._reads = reads
        self._samples: dict[str, dict[str, Sample]] = {}
        #: The peers that work here, and the versions of what they need.
        self.versions: dict[str, str] = {}
        #: What is to be said of the others.
        self.notes: list[str] = []
        for name, find in PEERS.items():
            self._try(name, find)

    def tasks(self, rounds: int) -> dict[str, Task]:
        """Return a task per work."""
        return {
            f"peers:{work}": Task(
                f"peers, {title}",
                {name: partial(self._measure, name, work) for name in self.versions},
                rounds,
                warm_up=False,  # each process does that by itself
            )
            for work, title in WORKS.items()
        }

    def _try(self, name: str, find: Callable[[], str]) -> None:
        try:
            found = find()
            self._run(name, 10)
        except PackageNotFoundError:
            self.notes.append(f"{name} is not installed.")
        except PeerFailed as error:
            self.notes.append(str(error))
        else:
            self.versions[name] = found

    def _measure(self, name: str, work: str) -> Sample:
        if work not in self._samples.get(name, {}):
            self._samples[name] = self._run(name, self._reads)
        return self._samples[name].pop(work)

    def _run(self, name: str, reads: int) -> dict[str, Sample]:
        site, window = self._site, min(rows.WINDOW, reads)
        # aiozk takes no chroot in its hosts.
        arguments = [name, f"{site.host}:{site.port}", site.chroot + site.path]
        arguments += [str(reads), str(window)]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        try:
            process = subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.peer", *arguments],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise PeerFailed(f"{name} failed:\n{error.stderr}") from error
        except subprocess.TimeoutExpired as error:
            raise PeerFailed(f"{name} has not ended in {TIMEOUT:g} s") from error
        answer = json.loads(process.stdout.splitlines()[-1])
        return {work: Sample(**sample) for work, sample in answer.items()}
