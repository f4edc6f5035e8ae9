"""The rows as a chart, an SVG that is the same for the same figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.benchmarks.measure import Spread
from tests.benchmarks.report import Report

BAR, TARGET, BOUND, GREY = "#3573b1", "#d9822b", "#111111", "#555555"


def draw(report: Report, path: str) -> None:
    """Write the chart to *path*."""
    found = list(report.rows.values())
    with mpl.rc_context({"svg.hashsalt": "benchmarks", "font.size": 9}):
        figure = Figure(figsize=(9, 1.6 + 0.38 * len(found)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        bounds = [row.bound or (None, None) for row in found]
        _panel(
            left,
            "operations per second (kazoo's own: 1)",
            [
                (row.rate_ratio, row.rate_target, bound)
                for row, (bound, _) in zip(found, bounds)
            ],
        )
        _panel(
            right,
            "CPU per operation (kazoo's own: 1)",
            [
                (row.cpu_ratio, row.at_most, bound)
                for row, (_, bound) in zip(found, bounds)
            ],
        )
        left.set_yticks(range(len(found)), [row.title for row in found])
        left.invert_yaxis()
        handles, labels = left.get_legend_handles_labels()
        legend = dict(zip(labels, handles))  # one for each, not for every row
        figure.legend(
            legend.values(),
            legend,
            loc="outside upper center",
            ncols=len(legend),
            frameon=False,
        )
        figure.supxlabel(_versions(report), fontsize=7, color=GREY)
        figure.savefig(path, format="svg", metadata={"Date": None})


#: What is measured, the target and the bound.
Bar = tuple[Spread, Optional[float], Optional[float]]


def _panel(axes: Any, title: str, bars: Sequence[Bar]) -> None:
    for number, (value, target, bound) in enumerate(bars):
        if target is None:
            continue
        axes.barh(
            number,
            value.median,
            height=0.62,
            color=BAR,
            xerr=[[value.median - value.low], [value.high - value.median]],
            error_kw={"elinewidth": 1, "ecolor": GREY},
            label="this handler (median and quartiles)",
        )
        axes.annotate(
            f"{value.median:.2f}",
            (max(value.high, target, bound or 0), number),
            (6, 0),
            textcoords="offset points",
            va="center",
        )
        axes.plot(
            [target, target],
            [number - 0.4, number + 0.4],
            color=TARGET,
            linewidth=2,
            label="target",
        )
        if bound is not None:
            axes.plot(
                bound,
                number,
                "D",
                color=BOUND,
                markersize=4,
                label="kazoo's protocol in one thread",
            )
    axes.axvline(1, color=GREY, linestyle=":", label="kazoo's own handler")
    axes.set_title(title, fontsize=9)
    axes.set_xlim(left=0)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)


def _versions(report: Report) -> str:
    names = ("kazoo", "Python", "ZooKeeper", "cores")
    return ", ".join(f"{name} {report.versions[name]}" for name in names)
