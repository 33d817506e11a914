"""Folders that are replaced whole or not at all, and never while somebody reads them."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hyperseek._bounded import PathLike
from hyperseek.errors import InputError


@contextmanager
def staged_folder(folder: PathLike, *, overwrite: bool, owned: Collection[str]) -> Iterator[Path]:
    """Make a hidden sibling of `folder` and rename it to `folder` when the block ends without an error.

    Args:
        folder: What shall exist at the end.
        overwrite: Whether a folder that is there may be replaced.
        owned: Names that such a folder may hold; one that holds anything else is never replaced.

    Yields:
        The folder to write into.

    Raises:
        InputError: `folder` exists and may not be replaced.
    """
    target = Path(folder)
    check_replaceable(target, overwrite, owned)
    with scratch_folder(target) as staging:
        yield staging
        if target.exists():
            replaced = staging.with_suffix(".old")
            os.replace(target, replaced)
            os.replace(staging, target)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            os.replace(staging, target)


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Make a hidden sibling of `target` that is gone after the block; those that killed processes left go before it.

    Args:
        target: It need not exist.

    Yields:
        The folder. Renaming it keeps it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        remove_unheld(left)
    scratch = target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    scratch.mkdir()
    hold = Hold(scratch)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        del hold


def check_replaceable(target: Path, overwrite: bool, owned: Collection[str]) -> None:
    """Raise InputError where a folder is there and may not be replaced; see `staged_folder`."""
    _bring_back(target)
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target} is a file; give the path of a folder to be made")
    held = sorted(path.name for path in target.iterdir())
    strange = [name for name in held if name not in owned]
    if strange:
        raise InputError(f"{target} holds {strange[0]!r}, which is not one of {sorted(owned)}; choose a new folder")
    if held and not overwrite:
        raise InputError(f"{target} exists; choose a new folder, or replace it with overwrite=True (--overwrite)")


def _bring_back(target: Path) -> None:
    """Undo a replacement that was killed half-way, when the old folder was moved away and the new one not yet there."""
    for old in target.parent.glob(f".{glob.escape(target.name)}.*.old"):
        if not remove_unheld(old.with_suffix(".tmp")):
            continue  # at work
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, target)


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
