"""Nothing that Lance raises reaches a user raw, and nothing that a table says leads out of its folder."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, TypeVar

from hyperseek._errors import StoreError
from hyperseek._files import reading, writing

T = TypeVar("T")

_REMEDY = "if its permissions are right, take the folder from a copy or build the index again with --overwrite"


@contextmanager
def reading_table(path: Path) -> Iterator[None]:
    """Report whatever goes wrong while a table is read as StoreError, a panic of Lance included."""
    with reading(path, "the table of an index", error=StoreError, remedy=_REMEDY):
        yield


@contextmanager
def writing_table(path: Path) -> Iterator[None]:
    """Report a disk that refuses to be written as WriteError, and everything else that goes wrong as StoreError."""
    with reading_table(path), writing(path):
        yield


def guarded(*writing: str) -> Callable[[type[T]], type[T]]:
    """Guard the public methods of a class that has a `path`, all of which read a table.

    Args:
        *writing: Names of those that write it.

    Returns:
        A decorator of the class.
    """

    def decorate(cls: type[T]) -> type[T]:
        for name, member in list(vars(cls).items()):
            guard = writing_table if name in writing else reading_table
            if name.startswith("_"):
                continue
            if isinstance(member, cached_property):
                member.func = _guard(member.func, guard)
            elif inspect.isfunction(member):
                setattr(cls, name, _guard(member, guard))
        return cls

    return decorate


def _guard(method: Callable[..., Any], guard: Callable[[Path], Any]) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(method):

        @wraps(method)
        def generate(self: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
            with guard(self.path):
                yield from method(self, *arguments, **options)

        return generate

    @wraps(method)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        with guard(self.path):
            return method(self, *arguments, **options)

    return call


def check_places(dataset: Any, path: Path) -> None:
    """Raise StoreError where a Lance data set says that a part of it lies elsewhere; Lance would follow it anywhere."""
    for fragment in dataset.get_fragments():
        metadata = fragment.metadata
        for part in [*metadata.files, *([metadata.deletion_file] if metadata.deletion_file else [])]:
            name = getattr(part, "path", "")
            if getattr(part, "base_id", None) is not None or (isinstance(name, str) and set(name) & set("/\\")):
                raise StoreError(
                    f"the table {path} names a file outside its folder ({name!r}), which is not read; is the index "
                    f"from somebody you trust?"
                )
