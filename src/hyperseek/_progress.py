"""One progress bar for every long step, silent unless a person is watching."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_quiet = False


class Progress(Protocol):
    """What a long step reports to."""

    def advance(self, count: int = 1) -> None:
        """Report `count` more units done."""
        ...

    def describe(self, text: str) -> None:
        """Replace the text before the bar."""
        ...


class _Silent:
    def advance(self, count: int = 1) -> None:
        pass

    def describe(self, text: str) -> None:
        pass


def set_quiet(quiet: bool) -> None:
    """Switch all progress bars off or on again for this process (`--quiet`)."""
    global _quiet
    _quiet = quiet


@contextmanager
def progress(text: str, total: int | None = None, *, unit: str = "", done: int = 0) -> Iterator[Progress]:
    """Show a bar on standard error while the block runs.

    Args:
        text: What is being done, as in `"encoding"`.
        total: How many units there are; None where that is unknown.
        unit: What is counted, as in `"documents"`.
        done: How many were done before, by a run that is being resumed.

    Yields:
        The bar; a silent one where standard error is not a terminal or `set_quiet(True)` was called.
    """
    if _quiet or not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    bar = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(text, total=total, completed=done)

        class _Shown:
            def advance(self, count: int = 1) -> None:
                bar.advance(task, count)

            def describe(self, text: str) -> None:
                bar.update(task, description=text)

        yield _Shown()
