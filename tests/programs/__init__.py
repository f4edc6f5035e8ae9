"""Programs that tests run in processes of their own.

The first two arguments of each are a connect string, and the module of the handler
under test.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from tests.support import KazooClient


def arguments() -> list[str]:
    """Return the arguments that are left."""
    return sys.argv[3:]


def new_client(**options: Any) -> Any:
    """Return a client with a handler of the class under test, not started.

    :param options: of the handler, where it is ours
    """
    hosts, module = sys.argv[1:3]
    handler_class = importlib.import_module(module).SequentialThreadingHandler
    if module.startswith("kazoo."):
        options = {}
    return KazooClient(hosts, handler=handler_class(**options))
