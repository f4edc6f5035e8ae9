"""Copies of exceptions, so that each caller raises its own.

Raising an exception adds a traceback to it. When a connection is lost, kazoo sets one
exception on all waiting results; raised in several threads, it would collect the frames
of all of them, and so keep their locals alive.

The copy has the same class, arguments and attributes. It is made without ``__init__``,
which may not accept ``args``. If a class cannot be copied like that, the exception
itself is raised, with a new traceback.
"""

from __future__ import annotations

from functools import lru_cache
from types import GetSetDescriptorType, MemberDescriptorType
from typing import TypeVar, Union

E = TypeVar("E", bound=BaseException)
_Member = Union[MemberDescriptorType, GetSetDescriptorType]

#: Stands for an unset slot.
_UNFILLED = object()


def private_copy(exception: E) -> E:
    """Return a copy of *exception*, to be raised by one caller."""
    cls: type[E] = type(exception)
    try:
        copy = cls.__new__(cls, *exception.args)
        if type(copy) is not cls:
            return exception.with_traceback(None)
        copy.args = exception.args
        copy.__dict__.update(exception.__dict__)
        if hasattr(copy, "__notes__"):
            copy.__notes__ = list(copy.__notes__)
        for member in _members(cls):  # type: ignore[arg-type]
            value = _value(member, exception)
            # Setting an unset filename of an OSError to None would alter its text.
            if value is not _value(member, copy):
                try:
                    member.__set__(copy, value)
                except AttributeError:
                    pass  # read-only: set by __new__
    except Exception:
        return exception.with_traceback(None)
    copy.__cause__ = exception.__cause__
    copy.__context__ = exception.__context__
    copy.__suppress_context__ = exception.__suppress_context__
    return copy.with_traceback(exception.__traceback__)


def _value(member: _Member, exception: BaseException) -> object:
    try:
        value: object = member.__get__(exception)
    except AttributeError:
        return _UNFILLED
    return value


@lru_cache(maxsize=256)
def _members(cls: type[BaseException]) -> tuple[_Member, ...]:
    """Return the attributes of *cls* outside ``__dict__``: slots, ``errno`` ..."""
    return tuple(
        member
        for base in cls.__mro__[: cls.__mro__.index(BaseException)]
        for name, member in vars(base).items()
        if isinstance(member, (MemberDescriptorType, GetSetDescriptorType))
        and not name.startswith("__")
    )
