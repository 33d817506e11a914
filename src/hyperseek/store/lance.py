"""Calls of Lance: its errors become ours, forked children are refused, and only one process writes at a time.

Lance reads with threads of its own, which a forked child lacks: some calls wait forever, others crash the process. The
child can do nothing about that, so it gets an error.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from hyperseek._files import reading, writing
from hyperseek._folders import refuse_link
from hyperseek.errors import StoreError

T = TypeVar("T")

_REMEDY = "if its permissions are right, take the folder from a copy or build the index again with --overwrite"


@contextmanager
def reading_table(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a table is read into StoreError, even a panic of Lance."""
    with reading(path, "the table of an index", error=StoreError, remedy=_REMEDY):
        yield


@contextmanager
def writing_table(path: Path) -> Iterator[None]:
    """Turn a disk's refusal to be written into WriteError, and whatever else goes wrong into StoreError."""
    with reading_table(path), writing(path):
        yield


def guarded(*writing: str) -> Callable[[type[T]], type[T]]:
    """Guard the public methods of a class that has a `path`, all of which use the table there.

    Args:
        *writing: Names of the methods that write the table; the others read it.

    Returns:
        A class decorator.
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
    """Raise StoreError if a Lance data set names a file outside its folder, which Lance would follow anywhere."""
    for fragment in dataset.get_fragments():
        metadata = fragment.metadata
        for part in [*metadata.files, *([metadata.deletion_file] if metadata.deletion_file else [])]:
            name = getattr(part, "path", "")
            if getattr(part, "base_id", None) is not None or (isinstance(name, str) and set(name) & set("/\\")):
                raise StoreError(
                    f"the table {path} names a file outside its folder ({name!r}), which is not read; is the index "
                    f"from somebody you trust?"
                )


_users: list[int] = []
"""The process that used tables first, if any: this one, or one that it was forked from."""


def use_tables() -> None:
    """Note that this process reads or writes tables.

    Raises:
        StoreError: It was forked from a process that had used tables before.
    """
    process = os.getpid()
    if not _users:
        _users.append(process)
    if _users[0] != process:
        raise StoreError(
            f"the process {process} was forked after its parent {_users[0]} had opened an index and cannot open one: "
            f"the threads that read the disk are not forked. Fork first and open the index in each process, or start "
            f"processes with the method 'spawn' or 'forkserver' of multiprocessing"
        )


class InUseError(StoreError):
    """Another writer is at work on an index."""


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Keep other writers out of a folder while the block runs.

    The operating system holds the lock, so it ends with its process, however that ends.

    Args:
        folder: The index; it must exist.

    Yields:
        Nothing.

    Raises:
        StoreError: Another writer, in this or another process, has the lock; or the lock is a link to another file.
        WriteError: The folder may not be written to.
    """
    path = folder / ".lock"
    refuse_link(path)
    if path.exists() and path.stat().st_nlink > 1:
        raise StoreError(f"{path} is a hard link to another file, which a lock must not touch; delete it")
    lock = FileLock(path, timeout=0)
    try:
        with writing(folder):
            lock.acquire()
    except Timeout:
        raise InUseError(f"the index {folder} is in use by another writer; wait until it is done") from None
    try:
        yield
    finally:
        lock.release()
