"""Collecting docstrings from Python sources, without importing anything."""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from hyperseek._errors import DataError

Kind: TypeAlias = Literal["module", "class", "function", "method"]

# Tests, applications and bundled copies: their docstrings say little about the library.
_SKIPPED_MODULES = frozenset(
    {"antigravity", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "this", "turtledemo"}
)
_SKIPPED_FOLDERS = frozenset({"__pycache__", "_vendor", "site-packages", "test", "testing", "tests"})


@dataclass(frozen=True, slots=True)
class Docstring:
    """One docstring.

    Attributes:
        path: Dotted path of what it documents, as in `"json.decoder.JSONDecoder.decode"`.
        module: Dotted path of its module.
        kind: What it documents.
        text: The docstring, its indentation removed.
    """

    path: str
    module: str
    kind: Kind
    text: str

    @property
    def parents(self) -> list[str]:
        """Dotted paths of everything around it, outermost first."""
        parts = self.path.split(".")
        return [".".join(parts[:length]) for length in range(1, len(parts))]


def standard_library() -> Iterator[Docstring]:
    """Yield the docstrings of the standard library, sorted by file.

    Yields:
        Docstrings of public modules, classes, functions and methods, and of private modules.

    Raises:
        DataError: This Python was installed without the sources of its standard library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    if not (root / "json" / "__init__.py").exists():
        raise DataError("holds no Python sources of the standard library; use a regular Python build", path=root)
    for name in sorted(sys.stdlib_module_names - _SKIPPED_MODULES):
        for path in (root / name, root / f"{name}.py"):
            if path.exists():
                yield from _from_path(path, name)


def installed_package(name: str) -> Iterator[Docstring]:
    """Yield the docstrings of an installed top-level package or module, found but not imported.

    Args:
        name: Its import name.

    Yields:
        Docstrings, sorted by file.

    Raises:
        DataError: It is not installed, or has no Python sources.
    """
    if not name.isidentifier():
        raise DataError(f"{name!r} is not the import name of a top-level package")
    found = None if name == "__main__" else importlib.util.find_spec(name)
    if found is None:
        raise DataError(f"package {name!r} is not installed; give the name under which it is imported")
    folders = [Path(folder) for folder in found.submodule_search_locations or ()]
    paths = folders or ([Path(found.origin)] if found.origin and found.origin.endswith(".py") else [])
    if not paths:
        raise DataError(f"package {name!r} has no Python sources to read docstrings from")
    for path in paths:
        yield from _from_path(path, name)


def _from_path(path: Path, module: str) -> Iterator[Docstring]:
    if path.is_file():
        yield from _from_source(path, module)
        return
    for child in sorted(path.iterdir()):
        if child.is_dir():
            if child.name not in _SKIPPED_FOLDERS and child.name.isidentifier():
                yield from _from_path(child, f"{module}.{child.name}")
        elif child.name == "__init__.py":
            yield from _from_source(child, module)
        elif child.suffix == ".py" and child.stem.isidentifier() and not child.stem.startswith("test_"):
            yield from _from_source(child, f"{module}.{child.stem}")


def _from_source(path: Path, module: str) -> Iterator[Docstring]:
    try:
        with warnings.catch_warnings():
            # Old sources warn of escapes; they are not ours to mend.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
        # Templates, deliberately broken files and those of other users end in .py too.
        return
    yield from _from_node(tree, module, module, "module")


def _from_node(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, path: str, module: str, kind: Kind
) -> Iterator[Docstring]:
    text = ast.get_docstring(node)
    if text:
        yield Docstring(path, module, kind, text)
    if kind in ("function", "method"):
        return
    for child in _definitions(node.body):
        name = child.name
        if name.startswith("_") and not (name.startswith("__") and name.endswith("__")):
            continue
        below: Kind = "class" if isinstance(child, ast.ClassDef) else "method" if kind == "class" else "function"
        yield from _from_node(child, f"{path}.{name}", module, below)


def _definitions(body: list[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    for statement in body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement
        elif isinstance(statement, ast.If | ast.Try):
            # Definitions often stand under a version or platform check.
            yield from _definitions(statement.body)
            yield from _definitions(statement.orelse)
            for handler in getattr(statement, "handlers", ()):
                yield from _definitions(handler.body)
