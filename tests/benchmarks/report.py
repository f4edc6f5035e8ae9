"""What was measured, as text and as JSON."""

from __future__ import annotations

import json
import os
import platform
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import kazoo.version

import kazoo_seqthreading
from tests.benchmarks import figures, idle, rows
from tests.benchmarks.measure import (
    Metric,
    Sample,
    Samples,
    Spread,
    ratio,
    spread,
)
from tests.benchmarks.subjects import HANDLERS, KAZOO, OURS

#: The size of a result, at most, in bytes.
RESULT_AT_MOST = 200


def rate(sample: Sample) -> float:
    return sample.rate


def cpu(sample: Sample) -> float:
    return sample.cpu_each


def p50(sample: Sample) -> float:
    return sample.p50 * 1e3


def multiple(values: Mapping[str, Spread], name: str) -> float:
    """Return what a subject has, as a multiple of kazoo's."""
    return values[name].median / values[KAZOO].median


@dataclass
class RowReport:
    """A row: by subject, operations per second and CPU microseconds per operation.

    With *p50*, the milliseconds of one operation, *rate_ratio* is of these: kazoo's as
    a multiple of ours.
    """

    title: str
    rate: dict[str, Spread]
    cpu: dict[str, Spread]
    rate_ratio: Spread
    cpu_ratio: Spread
    share: Spread | None
    at_least: float | None
    at_most: float | None
    as_raw: bool = False
    p50: dict[str, Spread] | None = None

    @property
    def rate_target(self) -> float | None:
        """What *rate_ratio* has to be, unless the server gives no more."""
        if self.as_raw:
            return rows.SATURATED * multiple(self.rate, rows.RAW_SOCKET)
        return self.at_least

    @property
    def is_fast(self) -> bool | None:
        """Whether the operations are enough, or the server gives no more."""
        saturated = self.share is not None and self.share.median >= rows.SATURATED
        if self.as_raw:
            return saturated
        if self.at_least is None:
            return None
        return saturated or self.rate_ratio.median >= self.at_least

    @property
    def is_cheap(self) -> bool | None:
        """Whether the CPU is little enough."""
        return None if self.at_most is None else self.cpu_ratio.median <= self.at_most


@dataclass
class FigureReport:
    """A figure of both handlers; *reached* is ``None`` where there is no target."""

    title: str
    unit: str
    values: dict[str, Spread]
    ratio: Spread | None = None
    target: str = ""
    reached: bool | None = None


@dataclass
class GrowthReport:
    """What something costs at each level; *growth*, the last as to the least."""

    title: str
    unit: str
    levels: list[int]
    values: dict[str, list[Spread]]
    growth: dict[str, float]


@dataclass
class PeerReport:
    """Operations per second and CPU microseconds, by work."""

    version: str
    rate: dict[str, Spread]
    cpu: dict[str, Spread]


@dataclass
class Report:
    """All that was measured."""

    versions: dict[str, str]
    settings: dict[str, Any]
    rows: dict[str, RowReport] = field(default_factory=dict)
    figures: dict[str, FigureReport] = field(default_factory=dict)
    growth: dict[str, GrowthReport] = field(default_factory=dict)
    peers: dict[str, PeerReport] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def versions(zookeeper: Iterable[int]) -> dict[str, str]:
    """Return on what the figures were measured."""
    return {
        "kazoo-seqthreading": kazoo_seqthreading.__version__,
        "kazoo": kazoo.version.__version__,
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "ZooKeeper": ".".join(map(str, zookeeper)),
        "OpenSSL": ssl.OPENSSL_VERSION.split()[1],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": str(os.cpu_count()),
    }


# -- from samples to reports -----------------------------------------------------------


def of_row(key: str, samples: Samples) -> RowReport:
    """Return the report of a row."""
    row = rows.ROWS[key]
    busy = key in rows.BUSY
    rates = ratio(samples, OURS, KAZOO, rate)
    return RowReport(
        title=row.title,
        rate={name: spread(samples, name, rate) for name in samples},
        cpu={name: spread(samples, name, cpu) for name in samples},
        rate_ratio=ratio(samples, KAZOO, OURS, p50) if busy else rates,
        cpu_ratio=ratio(samples, OURS, KAZOO, cpu),
        share=ratio(samples, OURS, rows.RAW_SOCKET, rate)
        if rows.RAW_SOCKET in samples
        else None,
        at_least=row.at_least,
        at_most=row.at_most,
        as_raw=key in rows.AS_RAW,
        p50={name: spread(samples, name, p50) for name in samples} if busy else None,
    )


def of_floor(floor: figures.Floor, samples: Samples) -> FigureReport:
    """Return what an operation costs beside what no handler can save."""
    least = spread(samples, floor.subject, cpu).median
    report = FigureReport(
        f"{floor.title} ({least:.1f} us)",
        "x",
        {name: ratio(samples, name, floor.subject, cpu) for name in HANDLERS},
    )
    if floor.at_most is not None:
        report.target = f"at most {floor.at_most} x"
        report.reached = report.values[OURS].median <= floor.at_most
    return report


def of_part(key: str, samples: Samples) -> FigureReport:
    """Return the report of a part."""
    part = figures.PARTS[key]
    metric = _metric(part.metric)
    multiple = ratio(samples, OURS, KAZOO, metric)
    report = FigureReport(
        part.title,
        part.unit,
        {name: spread(samples, name, metric) for name in HANDLERS},
        multiple,
    )
    if part.at_least is not None:
        report.target = f"at least {part.at_least} x"
        report.reached = multiple.median >= part.at_least
    if part.at_most is not None:
        report.target = f"at most {part.at_most} x"
        report.reached = multiple.median <= part.at_most
    return report


def of_weights(weights: Mapping[str, tuple[float, int]]) -> dict[str, FigureReport]:
    """Return the reports of the size of a result."""
    whole = {name: _exactly(weight[0]) for name, weight in weights.items()}
    own = {name: _exactly(weight[1]) for name, weight in weights.items()}
    return {
        "size": FigureReport(
            "AsyncResult, with all that it holds",
            "bytes",
            whole,
            target=f"at most {RESULT_AT_MOST}",
            reached=whole[OURS].median <= RESULT_AT_MOST,
        ),
        "own size": FigureReport("AsyncResult, the object alone", "bytes", own),
    }


def of_idle(seen: Mapping[str, tuple[str, int] | None]) -> dict[str, FigureReport]:
    """Return the report of idle clients, unless nothing can be seen here."""
    counts = {name: one for name, one in seen.items() if one is not None}
    if len(counts) < len(seen):
        return {}
    what = counts[OURS][0]
    return {
        "idle": FigureReport(
            f"{what} of an idle client in {idle.SECONDS:g} s",
            "",
            {name: _exactly(one[1]) for name, one in counts.items()},
            target="none",
            reached=counts[OURS][1] == 0,
        )
    }


def of_growth(key: str, levels: Mapping[int, Samples]) -> GrowthReport:
    """Return the report of a growth."""
    growth = figures.GROWTHS[key]
    metric = _metric(growth.metric)
    values = {
        name: [spread(samples, name, metric) for samples in levels.values()]
        for name in HANDLERS
    }
    return GrowthReport(
        growth.title,
        growth.unit,
        list(levels),
        values,
        {
            name: found[-1].median / min(one.median for one in found)
            for name, found in values.items()
        },
    )


def of_peers(
    installed: Mapping[str, str], samples: Mapping[str, Samples]
) -> dict[str, PeerReport]:
    """Return the reports of the peers."""
    return {
        name: PeerReport(
            version,
            {work: spread(taken, name, rate) for work, taken in samples.items()},
            {work: spread(taken, name, cpu) for work, taken in samples.items()},
        )
        for name, version in installed.items()
    }


def _metric(name: str) -> Metric:
    def metric(sample: Sample) -> float:
        value: float = getattr(sample, name)
        return value

    return metric


def _exactly(value: float) -> Spread:
    return Spread(value, value, value)


# -- as text ---------------------------------------------------------------------------


@dataclass
class Table:
    """A table: what it is about, its other columns, and its lines."""

    title: str
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]


def describe(report: Report) -> list[str]:
    """Return on what it was measured, and how."""
    return [
        ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        ", ".join(f"{name} {value}" for name, value in report.settings.items()),
    ]


def tables(report: Report) -> list[Table]:
    """Return all that was measured, as tables."""
    rows = report.rows.values()
    found = [
        Table("operations/s", RATES, _rates(rows)),
        Table("CPU us per operation", CPU, _cpu(rows)),
        Table("p50 in ms", P50, _p50(rows)),
        Table("further figures", FIGURES, list(map(_figure, report.figures.values()))),
    ]
    for growth in report.growth.values():
        heads = [*(f"{level:,}" for level in growth.levels), "growth"]
        lines = [
            [
                name,
                *(_number(one.median) for one in values),
                _times(growth.growth[name]),
            ]
            for name, values in growth.values.items()
        ]
        found.append(Table(f"{growth.title} ({growth.unit})", heads, lines))
    found.append(Table("peers", PEERS, list(_peers(report.peers))))
    return [table for table in found if table.lines]


def as_text(report: Report) -> str:
    """Return the tables."""
    found = [_text(table) for table in tables(report)]
    return "\n\n".join([*describe(report), *found, *report.notes, LEGEND])


BOTH = ["kazoo", "ours", "ratio", "quartiles", "target"]
RATES = [*BOTH, "one thread", "raw limit", "share", ""]
CPU = [*BOTH, "one thread", "raw limit", ""]
P50 = [*BOTH, "one thread", ""]
FIGURES = ["kazoo", "ours", "unit", "ratio", "quartiles", "target", ""]
PEERS = ["pipelined/s", "CPU us", "synchronous/s", "CPU us"]

LEGEND = """\
Medians of all rounds. Ratios are of neighbours in a round. The raw limit is a socket
that sends the same requests, built beforehand, with as many outstanding (at most 256),
and only counts the bytes of the replies; where the share of it is 0.9, the server
gives no more, and that counts as reached. One thread is kazoo's protocol with neither
its loop nor a second thread, on a blocking socket."""


def _rates(reports: Iterable[RowReport]) -> list[list[str]]:
    return [
        [
            *_both(row.title, row.rate, row.rate_ratio),
            "as raw" if row.as_raw else _target(row.at_least, 1),
            _median(row.rate, rows.BOUND),
            _median(row.rate, rows.RAW_SOCKET),
            "" if row.share is None else f"{row.share.median:.2f}",
            _mark(row.is_fast),
        ]
        for row in reports
        if row.p50 is None
    ]


def _cpu(reports: Iterable[RowReport]) -> list[list[str]]:
    return [
        [
            *_both(row.title, row.cpu, row.cpu_ratio),
            _target(row.at_most, 2),
            _median(row.cpu, rows.BOUND),
            _median(row.cpu, rows.RAW_SOCKET),
            _mark(row.is_cheap),
        ]
        for row in reports
        if row.p50 is None  # else it is mostly that of the thread that computes
    ]


def _p50(reports: Iterable[RowReport]) -> list[list[str]]:
    return [
        [
            *_both(row.title, row.p50, row.rate_ratio),
            _target(row.at_least, 1),
            _median(row.p50, rows.BOUND),
            _mark(row.is_fast),
        ]
        for row in reports
        if row.p50 is not None
    ]


def _both(title: str, values: Mapping[str, Spread], multiple: Spread) -> list[str]:
    return [
        title,
        *(_median(values, name) for name in (KAZOO, OURS)),
        _times(multiple.median),
        _quartiles(multiple),
    ]


def _median(values: Mapping[str, Spread], name: str) -> str:
    return _number(values[name].median) if name in values else ""


def _target(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f} x"


def _figure(figure: FigureReport) -> list[str]:
    return [
        figure.title,
        *(_number(figure.values[name].median) for name in (KAZOO, OURS)),
        figure.unit,
        "" if figure.ratio is None else _times(figure.ratio.median),
        "" if figure.ratio is None else _quartiles(figure.ratio),
        figure.target,
        _mark(figure.reached),
    ]


def _peers(reports: Mapping[str, PeerReport]) -> Iterable[list[str]]:
    for name, peer in reports.items():
        line = [f"{name} {peer.version}"]
        for work, value in peer.rate.items():
            line += [_number(value.median), _number(peer.cpu[work].median)]
        yield line


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}".removesuffix(".00")


def _times(value: float) -> str:
    return f"{value:.2f} x"


def _quartiles(value: Spread) -> str:
    return f"{value.low:.2f}-{value.high:.2f}"


def _mark(reached: bool | None) -> str:
    return {None: "", True: "reached", False: "MISSED"}[reached]


def _text(table: Table) -> str:
    cells = [[table.title, *table.heads], *table.lines]
    widths = [max(map(len, column)) for column in zip(*cells)]

    def render(line: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths))
        )
        return "  ".join([first, *others]).rstrip()

    head, *rest = map(render, cells)
    return "\n".join([head, "-" * len(head), *rest])


# -- from JSON -------------------------------------------------------------------------


def load(path: str) -> Report:
    """Return what was measured earlier, and written to *path*."""
    with open(path, encoding="utf-8") as file:
        found = _restore(json.load(file))
    kinds: dict[str, Any] = {
        "rows": RowReport,
        "figures": FigureReport,
        "growth": GrowthReport,
        "peers": PeerReport,
    }
    for name, kind in kinds.items():
        found[name] = {key: kind(**value) for key, value in found[name].items()}
    return Report(**found)


def _restore(value: Any) -> Any:
    if isinstance(value, list):
        return list(map(_restore, value))
    if not isinstance(value, dict):
        return value
    if value.keys() == {"median", "low", "high"}:
        return Spread(**value)
    return {key: _restore(one) for key, one in value.items()}
