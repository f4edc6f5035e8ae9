"""A private copy of an exception, for each of those who get to see it raised.

Raising an exception writes a traceback into it. kazoo gives one exception to all
results that wait when a connection is lost; raised in several threads, it would
collect the frames, and so the locals, of all of them.

The copy is made without calling ``__init__``, which need not take what ``args`` holds:
the same class, the same arguments, the same attributes. Where a class does not allow
that, the exception itself is raised, with a traceback that starts anew.
"""

from __future__ import annotations

from functools import lru_cache
from types import GetSetDescriptorType, MemberDescriptorType
from typing import TypeVar, Union

E = TypeVar("E", bound=BaseException)
_Member = Union[MemberDescriptorType, GetSetDescriptorType]

#: The value of a slot that was never filled.
_UNFILLED = object()


def private_copy(exception: E) -> E:
    """Return an exception like *exception*, to be raised by one caller alone."""
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
            # An OSError with a filename of None is not the same as one without.
            if value is not _value(member, copy):
                try:
                    member.__set__(copy, value)
                except AttributeError:
                    pass  # read-only: __new__ has made it of the arguments
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
    """Return what *cls* keeps outside ``__dict__``: slots, ``errno``, ``name`` ..."""
    return tuple(
        member
        for base in cls.__mro__[: cls.__mro__.index(BaseException)]
        for name, member in vars(base).items()
        if isinstance(member, (MemberDescriptorType, GetSetDescriptorType))
        and not name.startswith("__")
    )
