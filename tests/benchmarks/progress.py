"""A progress bar; where there is no terminal, a line now and then."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

#: Seconds between two lines.
PAUSE = 10.0
BAR = 24


class Progress:
    """Shows how far a known number of steps has come.

    :param stream: where to; a bar is drawn if it is a terminal
    """

    def __init__(self, steps: int, stream: TextIO) -> None:
        self._steps = steps
        self._stream = stream
        self._bar = stream.isatty()
        self._done = 0
        self._began = time.monotonic()
        self._shown = self._began - PAUSE

    def step(self, what: str) -> None:
        """Show that *what* begins, and the steps before it are done."""
        share = self._done / self._steps
        self._done += 1
        now = time.monotonic()
        if self._bar:
            full = int(share * BAR)
            bar = f"[{'#' * full}{'.' * (BAR - full)}] {share:4.0%} "
            self._draw(bar + self._left(share, now) + what)
        elif now - self._shown >= PAUSE:
            self._shown = now
            print(f"{share:4.0%}  {what}", file=self._stream, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._draw("")

    def _left(self, share: float, now: float) -> str:
        if not share:
            return ""
        minutes, seconds = divmod(int((now - self._began) * (1 / share - 1)), 60)
        return f"{minutes}:{seconds:02} left  "

    def _draw(self, line: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{line[:width]}", end="", file=self._stream, flush=True)
