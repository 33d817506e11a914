"""Files that somebody reads are not deleted.

A reader holds the folders it reads, with a shared lock of the operating system on the folder itself, which goes with
its process, however that ends. Where there are no such locks (Windows, some network file systems) nothing is held.
"""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

try:
    import fcntl

    _LOCKS = True
except ImportError:  # Windows, which refuses to delete open files by itself
    _LOCKS = False


class Hold:
    """Keeps a folder from being deleted by `remove_unheld` for as long as the object lives.

    Args:
        folder: It may be read-only.

    Raises:
        OSError: There is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not _LOCKS:
            return
        descriptor = os.open(folder, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        with suppress(OSError):  # of a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH)


def remove_unheld(folder: Path, before: Callable[[Path], object] | None = None) -> bool:
    """Delete a folder unless somebody holds it. Who wants to hold it meanwhile waits, and then finds it gone.

    Args:
        folder: With all its files; it may be missing.
        before: Called with the folder right before it is deleted.

    Returns:
        Whether it is gone.
    """
    descriptor = None
    if _LOCKS and folder.is_dir():
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        if descriptor is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:
                pass  # a file system without locks
        if before is not None:
            before(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return True
    finally:
        if descriptor is not None:
            os.close(descriptor)
