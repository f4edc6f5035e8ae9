"""The package as it is installed, and the documentation of what it offers."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import inspect
import pickle
import pydoc
import re
import threading
import typing
from typing import Any

import pytest
from kazoo.handlers.threading import SequentialThreadingHandler as KazoosHandler
from kazoo.interfaces import IAsyncResult, IHandler

import kazoo_seqthreading
from kazoo_seqthreading import AsyncResult, SequentialThreadingHandler
from tests.support import TIMEOUT, refcounted

PACKAGE, DISTRIBUTION = "kazoo_seqthreading", "kazoo-seqthreading"

OFFERED = [name for name in kazoo_seqthreading.__all__ if name != "__version__"]


@pytest.fixture
def distribution() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed here")


@pytest.mark.stock_fails("kazoo 2.11 has none")
def test_py_typed_is_installed(handler_class: type[Any]) -> None:
    package = handler_class.__module__.partition(".")[0]
    assert importlib.resources.files(package).joinpath("py.typed").is_file()


def test_version(distribution: importlib.metadata.Distribution) -> None:
    assert kazoo_seqthreading.__version__ == distribution.version


def test_needs_kazoo_and_nothing_else(
    distribution: importlib.metadata.Distribution,
) -> None:
    requirements = distribution.requires or []
    names = [re.split(r"[^\w.-]", requirement)[0] for requirement in requirements]
    assert names == ["kazoo"]


@refcounted
@pytest.mark.stock_fails("1,536 bytes each")
def test_size_of_a_result(handler_class: type[Any]) -> None:
    import tracemalloc

    handler, count = handler_class(), 10_000
    results = [None] * count
    handler.async_result()  # what is made but once
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(count):
            results[number] = handler.async_result()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (after - before) / count < 250  # on 3.14, and 170 on 3.11


# -- names -----------------------------------------------------------------------------


def public(obj: object) -> set[str]:
    """Return the names of the attributes of *obj* that its users may use."""
    return {name for name in dir(obj) if not name.startswith("_")}


def test_handler_shows_kazoos_attributes_and_statistics() -> None:
    extra = public(SequentialThreadingHandler()) - public(KazoosHandler())
    assert extra - public(IHandler) == {"report", "stats"}


def test_result_shows_kazoos_attributes_and_futures() -> None:
    extra = public(SequentialThreadingHandler().async_result()) - public(IAsyncResult)
    assert extra == {"value", "exception", "as_future"}


def test_set_takes_a_value_alone() -> None:
    assert list(inspect.signature(AsyncResult.set).parameters) == ["self", "value"]


@pytest.mark.parametrize("limit", [None, 1])
def test_thread_shows_what_threads_have(limit: int | None) -> None:
    handler = SequentialThreadingHandler(max_spawned_threads=limit)
    thread = handler.spawn(threading.get_ident)
    thread.join(TIMEOUT)

    assert public(thread) == public(threading.Thread())


def test_event_shows_what_events_have() -> None:
    event = SequentialThreadingHandler().event_object()
    assert public(event) == public(threading.Event())


def test_lock_shows_what_locks_have() -> None:
    lock = SequentialThreadingHandler().lock_object()
    assert public(lock) == {"acquire", "locked", "release"} <= public(threading.Lock())


@pytest.mark.parametrize("name", OFFERED)
def test_class_is_named_as_it_is_imported(name: str) -> None:
    offered = getattr(kazoo_seqthreading, name)
    assert offered.__module__ == PACKAGE
    assert getattr(kazoo_seqthreading, offered.__qualname__) is offered


@pytest.mark.parametrize("name", OFFERED)
def test_annotations_can_be_resolved(name: str) -> None:
    offered = getattr(kazoo_seqthreading, name)
    own = vars(offered).get("__annotations__", {})
    assert own.keys() <= typing.get_type_hints(offered).keys()


def completed(value: object) -> AsyncResult[object]:
    result = AsyncResult[object](None)  # type: ignore[arg-type]
    result.set(value)
    return result


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "make",
    [
        lambda: completed("value"),
        lambda: kazoo_seqthreading.TimeoutError("late"),
        lambda: kazoo_seqthreading.BlockingCallError("here"),
        lambda: SequentialThreadingHandler().stats(),
    ],
    ids=["result", "timeout", "blocking", "stats"],
)
def test_pickle_names_nothing_private(make: Any, protocol: int) -> None:
    original = make()
    pickled = pickle.dumps(original, protocol)
    copy = pickle.loads(pickled)

    assert b"kazoo_seqthreading._" not in pickled
    assert type(copy) is type(original)
    assert repr(copy) == repr(original)


# -- docstrings ------------------------------------------------------------------------


def is_explained(name: str, *docstrings: str | None) -> bool:
    """Tell whether one of the docstrings has *name* as code, or in a list of names."""
    marked = rf"``{name}``|:\w+ {name}:|attribute:: {name}$|^\s*[-*]?\s*{name}(:|$)"
    return any(re.search(marked, one, re.MULTILINE) for one in docstrings if one)


def is_documented(cls: type[Any], name: str, member: Any) -> bool:
    """Tell whether a member has a docstring, or is explained in that of its class."""
    if name in getattr(cls, "_fields", ()):
        return is_explained(name, cls.__doc__)
    if isinstance(member, (classmethod, staticmethod)):
        member = member.__func__
    has_its_own = (
        inspect.isroutine(member)
        or inspect.isclass(member)
        or isinstance(member, property)
    )
    if has_its_own and member.__doc__:
        return True
    return is_explained(name, *(base.__doc__ for base in cls.__mro__))


@pytest.mark.parametrize("name", OFFERED)
def test_docstrings(name: str) -> None:
    offered = getattr(kazoo_seqthreading, name)
    assert inspect.isclass(offered)
    assert offered.__doc__
    own = [base for base in offered.__mro__ if base.__module__.startswith(PACKAGE)]
    members = {key: value for base in own for key, value in vars(base).items()}
    undocumented = [
        key
        for key, value in members.items()
        if not key.startswith("_") and not is_documented(offered, key, value)
    ]

    assert undocumented == []


@pytest.mark.parametrize("method", ["__init__", "create_connection"])
def test_arguments_are_explained(method: str) -> None:
    """The options, and those for TLS."""
    function = getattr(SequentialThreadingHandler, method)
    where: Any = SequentialThreadingHandler if method == "__init__" else function
    names = list(inspect.signature(function).parameters)[1:]
    assert names
    missing = [name for name in names if f":param {name}:" not in where.__doc__]

    assert missing == []


def test_help_stands_alone() -> None:
    """It sends nobody to a private module."""
    text = pydoc.plain(pydoc.render_doc(kazoo_seqthreading))
    described, _, rest = text.partition("PACKAGE CONTENTS")
    _, _, classes = rest.partition("CLASSES")
    for part in (described, classes.partition("\nFILE\n")[0]):
        assert "SequentialThreadingHandler" in part
        assert not re.search(r"kazoo_seqthreading\._\w|\b_\w+\.py|\brules?\b", part)
    missing = [name for name in OFFERED if not re.search(rf"\b{name}\b", described)]

    assert missing == []
