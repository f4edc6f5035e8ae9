"""The rows as a chart, an SVG that is the same for the same figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Optional

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.benchmarks import rows
from tests.benchmarks.measure import Spread
from tests.benchmarks.report import Report, RowReport, multiple

OURS_COLOUR, KAZOO_COLOUR = "#2f6db3", "#d4d4d4"
MARK, GREY = "#111111", "#555555"
NOTE = "1.0 is kazoo's own handler; medians and quartiles"
#: What bounds a row: who has measured it, the form of its mark, and its name.
BOUNDS = {
    rows.RAW_SOCKET: ("|", "a raw socket, without kazoo"),
    rows.BOUND: ("D", "kazoo's protocol in one thread"),
}
LEGEND = [
    "kazoo's handler",
    "kazoo-seqthreading",
    *(name for _, name in BOUNDS.values()),
]


def draw(report: Report, path: str) -> None:
    """Write the chart to *path*."""
    found = list(report.rows.values())
    with mpl.rc_context({"svg.hashsalt": "benchmarks", "font.size": 11}):
        figure = Figure(figsize=(10, 1.9 + 0.44 * len(found)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _panel(left, "CPU per operation: less is better", found, _cpu)
        _panel(right, "Operations per second: more is better", found, _rate)
        left.set_yticks(range(len(found)), [row.title for row in found])
        left.invert_yaxis()
        handles, labels = right.get_legend_handles_labels()
        legend = dict(zip(labels, handles))  # one for each, not for every row
        names = [name for name in LEGEND if name in legend]
        figure.legend(
            [legend[name] for name in names],
            names,
            loc="outside upper center",
            ncols=2,
            frameon=False,
        )
        figure.supxlabel(f"{NOTE}; {_versions(report)}", fontsize=9, color=GREY)
        figure.savefig(path, format="svg", metadata={"Date": None})


#: What was measured, and what bounds it, all as multiples of kazoo's.
Bar = tuple[Spread, dict[str, float]]


def _cpu(row: RowReport) -> Optional[Bar]:
    if row.p50 is not None:  # it is mostly that of the thread that computes
        return None
    return row.cpu_ratio, _bounds(row.cpu)


def _rate(row: RowReport) -> Bar:
    if row.p50 is None:
        return row.rate_ratio, _bounds(row.rate)
    return row.rate_ratio, {k: 1 / value for k, value in _bounds(row.p50).items()}


def _bounds(values: dict[str, Spread]) -> dict[str, float]:
    return {name: multiple(values, name) for name in BOUNDS if name in values}


def _panel(
    axes: Any,
    title: str,
    found: Sequence[RowReport],
    measured: Callable[[RowReport], Optional[Bar]],
) -> None:
    for number, row in enumerate(found):
        bar = measured(row)
        if bar is None:
            axes.annotate("not compared", (0.02, number), va="center", color=GREY)
            continue
        value, bounds = bar
        axes.barh(number - 0.2, 1, height=0.36, color=KAZOO_COLOUR, label=LEGEND[0])
        axes.barh(
            number + 0.2,
            value.median,
            height=0.36,
            color=OURS_COLOUR,
            xerr=[[value.median - value.low], [value.high - value.median]],
            error_kw={"elinewidth": 1, "ecolor": GREY},
            label=LEGEND[1],
        )
        for name, bound in bounds.items():
            form, label = BOUNDS[name]
            axes.plot(
                bound,
                number + 0.2,
                form,
                color=MARK,
                markersize=14 if form == "|" else 5,
                markeredgewidth=2 if form == "|" else 1,
                linestyle="none",
                label=label,
            )
        axes.annotate(
            f"{value.median:.2f}",
            (max([value.high, *bounds.values()]), number + 0.2),
            (7, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_title(title, fontsize=11)
    axes.set_xlim(left=0)
    axes.margins(x=0.17)
    axes.spines[["top", "right"]].set_visible(False)


def _versions(report: Report) -> str:
    names = ("kazoo", "Python", "ZooKeeper", "cores")
    return ", ".join(f"{name} {report.versions[name]}" for name in names)
