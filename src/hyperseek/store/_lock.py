"""One writer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hyperseek._errors import StoreError
from hyperseek._files import writing
from hyperseek._inside import refuse_link


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Keep other writers out of a folder while the block runs.

    The operating system holds the lock, so it goes with its process, however that ends.

    Args:
        folder: The index; it must exist.

    Yields:
        Nothing.

    Raises:
        StoreError: Another process, or another writer in this one, has it; or the lock is a link to another file.
        WriteError: The folder may not be written to.
    """
    path = folder / ".lock"
    refuse_link(path)
    if path.exists() and path.stat().st_nlink > 1:
        raise StoreError(f"{path} is a second name of another file, which a lock must not touch; delete it")
    lock = FileLock(path, timeout=0)
    try:
        with writing(folder):
            lock.acquire()
    except Timeout:
        raise StoreError(f"the index {folder} is being written by somebody else; wait until that is done") from None
    try:
        yield
    finally:
        lock.release()
