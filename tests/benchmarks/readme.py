"""The tables of ``README.rst``, which stand between two comments there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.report import Report, Table, describe, tables

BEGIN, END = "\n.. begin of what was measured\n\n", "\n.. end of what was measured\n"
#: Columns that say whether a figure has got worse: they are for who measures.
LEFT_OUT = ("target", "")


def render(report: Report) -> str:
    """Return the tables in RST."""
    notes = [f"{note}\n" for note in report.notes]
    return "\n".join([*describe(report), "", *map(_rst, tables(report)), *notes])


def update(report: Report, path: Path) -> None:
    """Write the tables into *path*."""
    head, _, tail = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = tail.partition(END)
    path.write_text(f"{head}{BEGIN}{render(report)}{END}{tail}", encoding="utf-8")


def extract(path: Path) -> str:
    """Return the tables that stand in *path*."""
    _, _, tail = path.read_text(encoding="utf-8").partition(BEGIN)
    return tail.partition(END)[0]


def _rst(table: Table) -> str:
    kept = [n for n, head in enumerate(table.heads) if head not in LEFT_OUT]
    heads = [table.title, *(table.heads[number] for number in kept)]
    lines = [[line[0], *(line[1 + n] for n in kept)] for line in table.lines]
    widths = [max(map(len, column)) for column in zip(heads, *lines)]
    rule = " ".join("=" * width for width in widths)

    def row(cells: Sequence[str]) -> str:
        return " ".join(map(str.ljust, cells, widths)).rstrip()

    return "\n".join([rule, row(heads), rule, *map(row, lines), rule, ""])
