"""Hide what other systems lack, to test what is done there: ``pytest --poller``."""

from __future__ import annotations

import os
import select

#: What is hidden, so that this is the best that is left.
HIDDEN = {
    "epoll": [],
    "poll": [(select, "epoll")],  # as on macOS
    "select": [(select, "epoll"), (select, "poll")],  # as on Windows
}

#: The choice, for the programs that tests start.
VARIABLE = "TEST_POLLER"


def use(poller: str) -> None:
    """Leave no better one than *poller*, in this process and in those to be started."""
    for module, name in HIDDEN[poller]:
        if hasattr(module, name):
            delattr(module, name)
        os.environ[VARIABLE] = poller
