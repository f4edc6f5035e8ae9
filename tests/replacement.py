"""A pytest plugin: our handler in place of kazoo's, for tests that are not ours.

``--stock`` leaves kazoo's. For the plugins that prepare somebody's tests.

Every name that kazoo and its users find the handler by is replaced before a test
module is imported. A test fails if the stock classes are instantiated after all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Callable

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

# Their attributes are replaced, which types know nothing of.
client: Any = importlib.import_module("kazoo.client")
stock: Any = importlib.import_module("kazoo.handlers.threading")

_made: set[str] = set()  # the stock classes that have been instantiated


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stock",
        action="store_true",
        help="run the tests with kazoo's own threading handler",
    )


def pytest_configure(config: pytest.Config) -> None:
    for cls in (stock.SequentialThreadingHandler, stock.AsyncResult):
        cls.__init__ = _recording(cls.__init__, cls.__qualname__)
    if not config.getoption("--stock"):
        _replace_handler()


def pytest_report_header() -> str:
    handler = stock.SequentialThreadingHandler
    return f"handler: {handler.__module__}.{handler.__qualname__}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    try:
        yield
    finally:
        if not item.config.getoption("--stock"):
            names = ", ".join(sorted(_made))
            _made.clear()
            assert not names, f"kazoo's own {names} came into use"


def stock_was_used() -> bool:
    """Return whether a handler of kazoo's has been made."""
    return "SequentialThreadingHandler" in _made


def _replace_handler() -> None:
    import kazoo_seqthreading as ours

    for name in ("SequentialThreadingHandler", "AsyncResult", "KazooTimeoutError"):
        setattr(stock, name, getattr(ours, name))
    client.SequentialThreadingHandler = ours.SequentialThreadingHandler


def _recording(init: Callable[..., None], name: str) -> Callable[..., None]:
    def __init__(self: object, *args: Any, **kwargs: Any) -> None:
        _made.add(name)
        init(self, *args, **kwargs)

    return __init__
