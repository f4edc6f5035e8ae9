"""The package as it is installed, and the documentation of what it offers."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import inspect
import re
from typing import Any

import pytest

import kazoo_seqthreading
from tests.support import refcounted

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
