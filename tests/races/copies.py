"""Copies of the package whose accesses the explorer sees.

Each execution gets a copy of its own, so that what modules keep starts anew. In a copy

- attributes are read and written through :func:`load` and :class:`_Slot`, but for
  those that are only ever assigned in ``__init__``;
- ``threading``, ``_thread``, ``queue``, ``collections``, ``time`` and ``socket`` are
  ``doubles``;
- lists, dicts and sets are containers of ``doubles``; each of their methods is one
  step, and so is a copy as ``list`` or ``tuple``.

Not seen are global variables and variables of closures, which the package assigns in a
forked child alone, and what C code does to objects that it made, such as weak sets.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import threading
import types
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NamedTuple, Optional

import kazoo_seqthreading
from tests.races import doubles
from tests.races.explorer import access

SOURCES = Path(kazoo_seqthreading.__file__).parent
NAME = "copy_of_kazoo_seqthreading"


class Mutant(NamedTuple):
    """A bug: in a module, a text is replaced."""

    module: str
    old: str
    new: str


class Copy:
    """A copy of the package; its attributes are its modules."""

    def __init__(self, mutant: Optional[Mutant] = None) -> None:
        for name in [one for one in sys.modules if one.startswith(NAME)]:
            del sys.modules[name]
        package = types.ModuleType(NAME)
        package.__path__ = []
        sys.modules[NAME] = package
        sys.modules[f"{NAME}._fork"] = package._fork = _fork()  # type: ignore[attr-defined]
        _finder.mutant = mutant

    def __getattr__(self, name: str) -> Any:
        return importlib.import_module(f"{NAME}.{name}")


def _fork() -> types.ModuleType:
    """Return a ``_fork`` that no fork tells anything."""
    module = types.ModuleType(f"{NAME}._fork")
    real: Any = kazoo_seqthreading._fork
    module.__dict__.update(
        generation=real.generation,
        register=lambda obj: None,
        run_in_child=lambda function: function,
    )
    return module


class _Finder(MetaPathFinder, Loader):
    mutant: Optional[Mutant] = None

    def find_spec(self, name: str, *_: Any) -> Optional[ModuleSpec]:
        return ModuleSpec(name, self) if name.startswith(f"{NAME}.") else None

    def exec_module(self, module: types.ModuleType) -> None:
        name, mutant = module.__name__.rpartition(".")[2], self.mutant
        if mutant is not None and mutant.module != name:
            mutant = None
        module.__dict__.update(_HOOKS)
        exec(_compiled(name, mutant), module.__dict__)


_finder = _Finder()
sys.meta_path.insert(0, _finder)


@cache
def _compiled(name: str, mutant: Optional[Mutant]) -> types.CodeType:
    path = SOURCES / f"{name}.py"
    source = path.read_text()
    if mutant is not None:
        assert source.count(mutant.old) == 1, f"not once in {name}: {mutant.old!r}"
        source = source.replace(mutant.old, mutant.new)
    tree = ast.fix_missing_locations(_Instrument().visit(ast.parse(source)))
    return compile(tree, str(path), "exec")


class _Visitor(ast.NodeTransformer):
    """Knows how attributes are called, private ones, too."""

    def __init__(self) -> None:
        self._classes: list[str] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self._classes.append(node.name.lstrip("_"))
        self.generic_visit(node)
        self._classes.pop()
        return node

    def name_of(self, node: ast.Attribute) -> str:
        name = node.attr
        if self._classes and name.startswith("__") and not name.endswith("__"):
            return f"_{self._classes[-1]}{name}"
        return name


class _Assigned(_Visitor):
    """Collects the attributes that are assigned elsewhere than in ``__init__``."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        for path in SOURCES.glob("*.py"):
            self.visit(ast.parse(path.read_text()))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node if node.name == "__init__" else self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if not isinstance(node.ctx, ast.Load):
            self.names.add(self.name_of(node))
        return self.generic_visit(node)


_assigned = _Assigned().names


class _Instrument(_Visitor):
    """Has a module's accesses announced."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        arguments = [node.value, ast.Constant(self.name_of(node))]
        if isinstance(node.ctx, ast.Load):
            return _call("__load__", *arguments, at=node)
        nothing = ast.Constant(None)
        slot = _call("__slot__", *arguments, at=node)
        target = ast.Subscript(slot, nothing, node.ctx)
        return ast.copy_location(target, node)

    def _visit_container(self, node: Any) -> Any:
        self.generic_visit(node)
        if isinstance(getattr(node, "ctx", None), ast.Store):
            return node  # [a, b] = ...
        return _call("__tracked__", node, at=node)

    visit_List = visit_Dict = visit_Set = _visit_container
    visit_ListComp = visit_DictComp = visit_SetComp = _visit_container

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in ("list", "tuple", "set") and not node.keywords:
            node = _call("__snapshot__", node.func, *node.args, at=node)
        if name in ("list", "dict", "set"):
            return _call("__tracked__", node, at=node)
        return node

    def visit_Import(self, node: ast.Import) -> Any:
        return [
            ast.copy_location(
                ast.ImportFrom(*_DOUBLES, [ast.alias("doubles", alias.name)], 0)
                if alias.name in _DOUBLED
                else ast.Import([alias]),
                node,
            )
            for alias in node.names
        ]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.module in _DOUBLED and not node.level:
            node.module = doubles.__name__
        return node


_DOUBLED = ("threading", "_thread", "queue", "collections", "time", "socket")
_DOUBLES = (doubles.__name__.rpartition(".")[0],)


def _call(function: str, *arguments: Any, at: ast.AST) -> ast.Call:
    call = ast.Call(ast.Name(function, ast.Load()), list(arguments), [])
    return ast.copy_location(call, at)


# -- in the copies -----------------------------------------------------------------


def load(obj: Any, name: str) -> Any:
    """Return an attribute, after its announcement if it can change."""
    if _is_data(obj, name):
        access(obj, name, writes=False)
    return getattr(obj, name)


class _Slot:
    """An attribute that is to be assigned, or deleted."""

    def __init__(self, obj: Any, name: str) -> None:
        self._obj, self._name = obj, name

    def __getitem__(self, _: None) -> Any:
        return load(self._obj, self._name)

    def __setitem__(self, _: None, value: Any) -> None:
        if _is_data(self._obj, self._name):
            access(self._obj, self._name, writes=True)
        setattr(self._obj, self._name, value)

    def __delitem__(self, _: None) -> None:
        if _is_data(self._obj, self._name):
            access(self._obj, self._name, writes=True)
        delattr(self._obj, self._name)


#: What has no attributes that change, or none that another thread sees, or announces
#: its accesses itself.
_OWN = (type, types.ModuleType, types.FunctionType, threading.local, super, str, tuple)


def _is_data(obj: Any, name: str) -> bool:
    kind = type(obj)
    if (
        name not in _assigned
        or isinstance(obj, _OWN)
        or kind.__module__ == doubles.__name__
    ):
        return False
    known = _known.get((kind, name))
    if known is None:
        known = _known[kind, name] = _is_data_of(kind, name)
    return known


_known: dict[tuple[type[Any], str], bool] = {}


def _is_data_of(kind: type[Any], name: str) -> bool:
    for base in kind.__mro__:
        if name in base.__dict__:
            value: Any = base.__dict__[name]
            return not hasattr(value, "__get__") or isinstance(
                value, types.MemberDescriptorType
            )
    return True


#: How the copies name them, whatever names a module has.
_HOOKS = {
    "__load__": load,
    "__slot__": _Slot,
    "__snapshot__": doubles.snapshot,
    "__tracked__": doubles.tracked,
}
