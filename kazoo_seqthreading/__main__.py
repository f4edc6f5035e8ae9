"""Compare kazoo's own handler with this package's on your ensemble.

::

    python -m kazoo_seqthreading --hosts zk1:2181,zk2:2181,zk3:2181

The ensemble is put under load while this runs. It is only read, except for one small
node, directly under the chroot if there is one, which is removed at the end.

Standard output contains only the table, or the JSON.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    # While there is nothing to clean up, Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import json
import logging
import math
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn, TextIO

from ._compare import KAZOO, OURS, TITLES, CompareError, Comparison, Figures, compare
from ._version import __version__

PROGRAM = "kazoo_seqthreading"
BAR = 20
#: The exit status that a shell reports for SIGPIPE.
UNREAD = 141
#: The message when the signal has ended the program.
SIGNALS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and return the process's exit status."""
    options = _parse(arguments)
    for name in ("kazoo", "kazoo_seqthreading"):  # the messages here suffice
        logging.getLogger(name).addHandler(logging.NullHandler())
    progress = _Progress(sys.stderr)
    signals = Signals()
    try:
        with signals:
            comparison = compare(
                options.hosts,
                seconds=options.seconds,
                timeout=options.timeout,
                options=_client_options(options),
                report=progress.show,
            )
    except BaseException as error:
        progress.clear()
        if signals.seen:
            say(f"{PROGRAM}: {SIGNALS[signals.seen]}", sys.stderr)
            return 128 + signals.seen
        if isinstance(error, CompareError):
            say(f"{PROGRAM}: {error}", sys.stderr)
            return 1
        raise
    progress.clear()
    say(_as_json(comparison) if options.json else _as_table(comparison), sys.stdout)
    return 0


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        say("", sys.stdout, end="")
        super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: {message} (--help tells more)\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog=f"python -m {PROGRAM}",
        description="Compare kazoo's own threading handler with kazoo_seqthreading's "
        "on your own ensemble. It is put under load, but only read, except for one "
        "small node of the comparison's own, which is removed in the end.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--hosts",
        required=True,
        metavar="HOST:PORT,...[/CHROOT]",
        help="as KazooClient takes it",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=20.0,
        metavar="S",
        help="how long to measure (default: %(default)g)",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="session time-out, and limit for connecting (default: %(default)g)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON instead of a table"
    )
    login = parser.add_argument_group(
        "as KazooClient has them",
        "A secret given as @FILE is the first line of that file: what is on the "
        "command line, every user can see.",
    )
    login.add_argument(
        "--auth",
        type=_auth,
        action="append",
        metavar="SCHEME:CREDENTIAL",
        help="for example digest:user:password, or @FILE; may be repeated",
    )
    login.add_argument(
        "--sasl",
        type=_sasl,
        action="append",
        metavar="OPTION=VALUE",
        help="one of sasl_options, for example mechanism=DIGEST-MD5 or "
        "password=@FILE; may be repeated",
    )
    login.add_argument("--use-ssl", action="store_true", help="connect with TLS")
    login.add_argument("--ca", type=_file, metavar="FILE")
    login.add_argument("--certfile", type=_file, metavar="FILE")
    login.add_argument("--keyfile", type=_file, metavar="FILE")
    login.add_argument(
        "--keyfile-password", type=_secret, metavar="PASSWORD", help="or @FILE"
    )
    login.add_argument("--no-verify-certs", action="store_true")
    login.add_argument("--check-hostname", action="store_true")
    options = parser.parse_args(arguments)
    if not options.use_ssl:
        for name in (
            "ca",
            "certfile",
            "keyfile",
            "keyfile_password",
            "no_verify_certs",
            "check_hostname",
        ):
            if getattr(options, name):
                parser.error(f"--{name.replace('_', '-')} needs --use-ssl")
    return options


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.5 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be at least 0.5 seconds, not {text!r}")
    return seconds


def _auth(text: str) -> tuple[str, str]:
    scheme, colon, credential = _secret(text).partition(":")
    if not (scheme and colon and credential):
        raise argparse.ArgumentTypeError("must be SCHEME:CREDENTIAL")
    return scheme, credential


def _sasl(text: str) -> tuple[str, str]:
    option, equals, value = text.partition("=")
    if not (option and equals and value):
        raise argparse.ArgumentTypeError("must be OPTION=VALUE")
    return option, _secret(value)


def _secret(text: str) -> str:
    """Return *text*, or for ``@FILE`` the first line of the file."""
    if not text.startswith("@"):
        return text
    try:
        with open(text[1:], "rb") as file:
            secret = file.readline().decode().rstrip("\r\n")
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise argparse.ArgumentTypeError(f"{text}: not UTF-8") from None
    if not secret:
        raise argparse.ArgumentTypeError(f"{text}: the first line is empty")
    return secret


def _file(name: str) -> str:
    try:
        open(name, "rb").close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{name}: {error.strerror}") from None
    return name


def _client_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments for ``KazooClient`` that were given."""
    found: dict[str, Any] = {}
    if options.auth:
        found["auth_data"] = options.auth
    if options.sasl:
        found["sasl_options"] = dict(options.sasl)
    if options.use_ssl:
        found["use_ssl"] = True
        for name in ("ca", "certfile", "keyfile", "keyfile_password"):
            if getattr(options, name) is not None:
                found[name] = getattr(options, name)
        if options.no_verify_certs:
            found["verify_certs"] = False
        if options.check_hostname:
            found["check_hostname"] = True
    return found


class Signals:
    """Raises ``KeyboardInterrupt`` for the first signal; a second one kills.

    The signal is stored, as kazoo converts the exception in some places.
    """

    def __init__(self) -> None:
        self.seen: int = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._interrupt)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: object) -> None:
        self.seen = number
        for other in self._before:
            signal.signal(other, signal.SIG_DFL)
        raise KeyboardInterrupt


# -- output ----------------------------------------------------------------------------


def say(text: str, stream: TextIO, end: str = "\n") -> None:
    """Print *text*; end the program if the reader has closed, as with ``| head``."""
    try:
        print(text, end=end, file=stream, flush=True)
    except BrokenPipeError:
        # Or the interpreter would write the rest at exit, and report the error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(UNREAD) from None


class _Progress:
    """A bar on a terminal; elsewhere a line when a kind of work begins first."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._begun = {""}

    def show(self, share: float, what: str, handler: str) -> None:
        if self._terminal:
            full = round(share * BAR)
            label = f"{what}, {handler}" if what else ""
            self._draw(f"[{'#' * full}{'.' * (BAR - full)}] {share:4.0%}  {label}")
        elif what not in self._begun:
            self._begun.add(what)
            say(f"measuring: {what}", self._stream)

    def clear(self) -> None:
        if self._terminal:
            self._draw("")

    def _draw(self, line: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        say(f"\r\x1b[K{line[:width]}", self._stream, end="")


def _as_json(comparison: Comparison) -> str:
    results = []
    for what, figures in comparison.work.items():
        ours, kazoos = figures[OURS], figures[KAZOO]
        columns = {OURS: ours, KAZOO: kazoos, "ratio": ours.ratio(kazoos)}
        result: dict[str, Any] = {"work": what}
        for name, column in columns.items():
            result[name] = {key: round(n, 4) for key, n in column._asdict().items()}
        results.append(result)
    return json.dumps({**comparison.surroundings, "results": results}, indent=2)


def _as_table(comparison: Comparison) -> str:
    about = comparison.surroundings
    lines = [
        f"kazoo_seqthreading {about['kazoo_seqthreading']}, kazoo {about['kazoo']}, "
        f"{about['python']}",
        f"on {about['server']}, medians of {about['rounds']} rounds",
        "",
        _line("", "operations/s", "p50 ms", "CPU us/operation"),
    ]
    for what, figures in comparison.work.items():
        ours, kazoos = figures[OURS], figures[KAZOO]
        lines += [
            what,
            _figures(TITLES[OURS], ours),
            _figures(TITLES[KAZOO], kazoos),
            _line(
                "  ratio", *(f"{ratio:.2f}x" for ratio in _shown(ours.ratio(kazoos)))
            ),
        ]
    return "\n".join([*lines, "", *_verdict(comparison)])


def _verdict(comparison: Comparison) -> list[str]:
    ratios = [pair[OURS].ratio(pair[KAZOO]) for pair in comparison.work.values()]
    rates = sorted(ratio.operations_per_second for ratio in ratios)
    cpu = sorted(ratio.cpu_us_per_operation for ratio in ratios)
    return [
        "ratio: kazoo_seqthreading's figure divided by that of kazoo's handler.",
        "More operations per second are better, and less of everything else.",
        "",
        f"kazoo_seqthreading makes {rates[0]:.1f} to {rates[-1]:.1f} times as many "
        "operations per second,",
        f"each with {cpu[0]:.0%} to {cpu[-1]:.0%} of the CPU.",
    ]


def _figures(title: str, figures: Figures) -> str:
    rate, p50, cpu = _shown(figures)
    return _line(f"  {title}", f"{rate:,.0f}", f"{p50:.2f}", f"{cpu:.1f}")


def _shown(figures: Figures) -> tuple[float, float, float]:
    """Return the figures that vary little between runs: not the 99th percentile."""
    rate, p50, _, cpu = figures
    return rate, p50, cpu


def _line(title: str, *cells: str) -> str:
    widths = (14, 9, 18)
    row = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths))
    return f"{title:<24}{row}"


if __name__ == "__main__":
    sys.exit(main())
