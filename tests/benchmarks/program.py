"""The command: what is measured, in which order, and where the figures go."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks import figures, idle, readme, report, rows
from tests.benchmarks.measure import Samples, Task, count_samples, run_rounds
from tests.benchmarks.peers import PeerFailed, Peers
from tests.benchmarks.progress import Progress
from tests.benchmarks.subjects import HANDLERS, KAZOO, Site, open_site
from tests.zookeeper import ZooKeeperError

ROUNDS, QUICK_ROUNDS = 15, 5
PEER_READS, QUICK_PEER_READS = 4000, 1500
#: How often peers are measured, at most: each time a process starts.
PEER_ROUNDS = 5

SIZE, IDLE = "size", "idle"
CHOICES = [*rows.ROWS, SIZE, *figures.PARTS, *figures.GROWTHS, IDLE]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure the handler beside kazoo's own, on a private ZooKeeper "
        "or on the first server of ZOOKEEPER_HOSTS (TLS always on a private one). "
        "It takes about ten minutes.",
    )
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="fewer and shorter rounds: under two minutes",
    )
    add(
        "--rows",
        nargs="+",
        choices=CHOICES,
        default=CHOICES,
        metavar="ROW",
        help=f"what to measure; one or more of: {', '.join(CHOICES)}",
    )
    add("--rounds", type=_Positive(int), metavar="N", help="how many rounds")
    add(
        "--scale",
        type=_Positive(float),
        default=1.0,
        metavar="X",
        help="make every sample X times as long, but no burst longer",
    )
    add(
        "--peers",
        action="store_true",
        help="also gevent, eventlet, aiozk and Apache's C client",
    )
    add("--json", metavar="FILE", help="write all figures")
    add("--svg", metavar="FILE", help="draw the rows (needs matplotlib)")
    add("--readme", metavar="FILE", help="write the tables into this README.rst")
    add("--show", metavar="JSON", help="measure nothing: take the figures from there")
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if options.svg:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            parser.error("--svg needs matplotlib")
    return options


class _Positive:
    """A positive number on the command line."""

    def __init__(self, kind: type[float]) -> None:
        self._kind = kind
        self.__name__ = "positive number"  # for argparse's message

    def __call__(self, text: str) -> float:
        value = self._kind(text)
        if not value > 0:
            raise ValueError
        return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and return the exit status."""
    options = parse(arguments)
    try:
        result = report.load(options.show) if options.show else measure(options)
    except (ZooKeeperError, PeerFailed) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(report.as_text(result))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(asdict(result), file, indent=2)
            file.write("\n")
    if options.svg:
        from tests.benchmarks import chart

        chart.draw(result, options.svg)
    if options.readme:
        readme.update(result, Path(options.readme))
    return 0


def measure(options: argparse.Namespace) -> report.Report:
    """Measure all that the command line asks for."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with ExitStack() as stack:
        site = stack.enter_context(open_site())
        secure = None
        if any(rows.ROWS[key].tls for key in options.rows if key in rows.ROWS):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            secure = stack.enter_context(open_site(folder))
        tasks = _tasks(options, site, secure, stack)
        result = report.Report(
            report.versions(site.clients[KAZOO].server_version()),
            {"rounds": options.rounds, "quick": options.quick, "load before": load},
        )
        peers = _peers(options, site) if options.peers else None
        if peers is not None:
            result.notes += peers.notes
            tasks.update(peers.tasks(min(options.rounds, PEER_ROUNDS)))
        alone = [name for name in (SIZE, IDLE) if name in options.rows]
        steps = len(alone) * len(HANDLERS) + count_samples(tasks, options.rounds)
        progress = Progress(steps, sys.stderr)
        stack.callback(progress.close)
        # First: the rounds leave more for the garbage collector to look at.
        result.figures.update(_measure_alone(alone, site, progress))
        samples = run_rounds(tasks, options.rounds, progress.step)
    _fill(result, samples)
    if peers is not None:
        result.peers = report.of_peers(peers.versions, _named("peers", samples))
    return result


def _peers(options: argparse.Namespace, site: Site) -> Peers:
    reads = QUICK_PEER_READS if options.quick else PEER_READS
    return Peers(site, _scaled(reads, options.scale))


def _measure_alone(
    names: Sequence[str], site: Site, progress: Progress
) -> dict[str, report.FigureReport]:
    """Measure what is counted once and not timed."""
    weights, seen = {}, {}
    for name in HANDLERS:
        if SIZE in names:
            progress.step(f"size of a result, {name}")
            weights[name] = figures.weigh(name)
        if IDLE in names:
            progress.step(f"an idle client, {name}")
            seen[name] = idle.observe(name, site.hosts)
    found = {}
    if weights:
        found.update(report.of_weights(weights))
    if seen:
        found.update(report.of_idle(seen))
    return found


def _fill(result: report.Report, samples: Mapping[str, Samples]) -> None:
    """Put what was measured in rounds into the report."""
    for key in rows.ROWS:
        if key in samples:
            result.rows[key] = report.of_row(key, samples[key])
    for key, floor in figures.FLOORS.items():
        if floor.row in samples:
            result.figures[key] = report.of_floor(floor, samples[floor.row])
    for key in figures.PARTS:
        if key in samples:
            result.figures[key] = report.of_part(key, samples[key])
    for key in figures.GROWTHS:
        levels = _named(key, samples)
        if levels:
            result.growth[key] = report.of_growth(
                key, {int(level): taken for level, taken in levels.items()}
            )


def _named(kind: str, samples: Mapping[str, Samples]) -> dict[str, Samples]:
    """Return the samples of the tasks named ``kind:...``."""
    return {
        key.partition(":")[2]: taken
        for key, taken in samples.items()
        if key.startswith(f"{kind}:")
    }


def _tasks(
    options: argparse.Namespace,
    site: Site,
    secure: Site | None,
    stack: ExitStack,
) -> dict[str, Task]:
    """Return what is measured in rounds."""
    tasks = {}
    for key, row in rows.ROWS.items():
        if key in options.rows:
            where = secure if row.tls and secure is not None else site
            operations = row.quick if options.quick else row.operations
            scale = min(1.0, options.scale) if key in rows.BURSTS else options.scale
            tasks[key] = rows.make_task(key, where, _scaled(operations, scale))
    for key, part in figures.PARTS.items():
        if key in options.rows:
            operations = _scaled(part.operations, options.scale)
            tasks[key] = figures.part_task(key, operations, stack)
    for key, growth in figures.GROWTHS.items():
        if key in options.rows:
            for level in growth.quick if options.quick else growth.levels:
                scaled = _scaled(level, min(1.0, options.scale))
                tasks[f"{key}:{scaled}"] = figures.growth_task(
                    key, scaled, options.rounds, site
                )
    return tasks


def _scaled(number: int, scale: float) -> int:
    return max(1, int(number * scale))
