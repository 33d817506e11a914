"""One writer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hyperseek._errors import StoreError


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Keep other writers out of a folder while the block runs.

    The operating system holds the lock, so it goes with its process, however that ends.

    Args:
        folder: The index; it must exist.

    Yields:
        Nothing.

    Raises:
        StoreError: Another process, or another writer in this one, has it.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(f"the index {folder} is being written by somebody else; wait until that is done") from None
    try:
        yield
    finally:
        lock.release()
