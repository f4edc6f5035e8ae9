"""What was measured, as text and as JSON."""

from __future__ import annotations

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

#: CPU per pipelined read, at most, as a multiple of kazoo's own protocol's.
PROTOCOL_AT_MOST = 1.6
#: The size of a result, at most, in bytes.
RESULT_AT_MOST = 200


def rate(sample: Sample) -> float:
    return sample.rate


def cpu(sample: Sample) -> float:
    return sample.cpu_each


@dataclass
class RowReport:
    """A row: by subject, operations per second and CPU microseconds per operation."""

    title: str
    rate: dict[str, Spread]
    cpu: dict[str, Spread]
    rate_ratio: Spread
    cpu_ratio: Spread
    share: Spread | None
    at_least: float | None
    at_most: float

    @property
    def is_fast(self) -> bool:
        """Whether the operations are enough, or the server gives no more."""
        if self.at_least is None or self.rate_ratio.median >= self.at_least:
            return True
        return self.share is not None and self.share.median >= rows.SATURATED

    @property
    def is_cheap(self) -> bool:
        """Whether the CPU is little enough."""
        return self.cpu_ratio.median <= self.at_most


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
    return RowReport(
        title=row.title,
        rate={name: spread(samples, name, rate) for name in samples},
        cpu={name: spread(samples, name, cpu) for name in samples},
        rate_ratio=ratio(samples, OURS, KAZOO, rate),
        cpu_ratio=ratio(samples, OURS, KAZOO, cpu),
        share=ratio(samples, OURS, rows.LIMIT, rate) if rows.LIMIT in samples else None,
        at_least=row.at_least,
        at_most=row.at_most,
    )


def of_protocol(samples: Samples) -> FigureReport:
    """Return what a pipelined read costs beside kazoo's own protocol code."""
    report = of_floor("CPU per pipelined read / kazoo's protocol", rows.FLOOR, samples)
    report.target = f"at most {PROTOCOL_AT_MOST} x"
    report.reached = report.values[OURS].median <= PROTOCOL_AT_MOST
    return report


def of_floor(title: str, floor: str, samples: Samples) -> FigureReport:
    """Return what an operation costs beside what no handler can save."""
    values = {name: ratio(samples, name, floor, cpu) for name in HANDLERS}
    return FigureReport(
        f"{title} ({spread(samples, floor, cpu).median:.1f} us)", "x", values
    )


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


def as_text(report: Report) -> str:
    """Return the tables."""
    parts = [
        ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        ", ".join(f"{name} {value}" for name, value in report.settings.items()),
    ]
    if report.rows:
        parts.append(_table("operations/s", RATES, _rates(report.rows.values())))
        parts.append(_table("CPU us per operation", CPU, _cpu(report.rows.values())))
    if report.figures:
        lines = [_figure(figure) for figure in report.figures.values()]
        parts.append(_table("further figures", FIGURES, lines))
    for growth in report.growth.values():
        parts.append(
            _table(
                f"{growth.title} ({growth.unit})",
                [*(f"{level:,}" for level in growth.levels), "growth"],
                [
                    [
                        name,
                        *(_number(one.median) for one in found),
                        _times(growth.growth[name]),
                    ]
                    for name, found in growth.values.items()
                ],
            )
        )
    if report.peers:
        parts.append(_table("peers", PEERS, list(_peers(report.peers))))
    parts += report.notes
    parts.append(LEGEND)
    return "\n\n".join(parts)


RATES = ["kazoo", "ours", "ratio", "quartiles", "target", "raw limit", "share", ""]
CPU = ["kazoo", "ours", "ratio", "quartiles", "target", "raw limit", ""]
FIGURES = ["kazoo", "ours", "unit", "ratio", "quartiles", "target", ""]
PEERS = ["pipelined/s", "CPU us", "synchronous/s", "CPU us"]

LEGEND = """\
Medians of all rounds. Ratios are of neighbours in a round. The raw limit is a socket
that sends the same requests, built beforehand, with as many outstanding (at most 256),
and only counts the bytes of the replies; where the share of it is 0.8, the server
gives no more, and that counts as reached."""


def _rates(reports: Iterable[RowReport]) -> list[list[str]]:
    lines = []
    for row in reports:
        limit = row.rate.get(rows.LIMIT)
        lines.append(
            [
                row.title,
                _number(row.rate[KAZOO].median),
                _number(row.rate[OURS].median),
                _times(row.rate_ratio.median),
                _quartiles(row.rate_ratio),
                "" if row.at_least is None else f"{row.at_least:.1f} x",
                "" if limit is None else _number(limit.median),
                "" if row.share is None else f"{row.share.median:.2f}",
                "" if row.at_least is None else _mark(row.is_fast),
            ]
        )
    return lines


def _cpu(reports: Iterable[RowReport]) -> list[list[str]]:
    lines = []
    for row in reports:
        limit = row.cpu.get(rows.LIMIT)
        lines.append(
            [
                row.title,
                _number(row.cpu[KAZOO].median),
                _number(row.cpu[OURS].median),
                _times(row.cpu_ratio.median),
                _quartiles(row.cpu_ratio),
                f"{row.at_most:.2f} x",
                "" if limit is None else _number(limit.median),
                _mark(row.is_cheap),
            ]
        )
    return lines


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


def _table(title: str, heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cells = [[title, *heads], *lines]
    widths = [max(map(len, column)) for column in zip(*cells)]

    def render(line: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths))
        )
        return "  ".join([first, *others]).rstrip()

    head, *rest = map(render, cells)
    return "\n".join([head, "-" * len(head), *rest])
