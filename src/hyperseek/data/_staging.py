"""Writing a folder so that it is there whole or not at all."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperseek._errors import InputError
from hyperseek._hold import Hold, remove_unheld
from hyperseek._text_files import PathLike


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
