"""Ctrl-C during long work: what is under way is stored first, and the user is told what there is and how to resume.

A long step runs inside `stoppable`, and calls `stop_here` wherever everything before is on the disk. The first Ctrl-C
waits for the next such place; the second stops at once. Both end in `Interrupted`, a `KeyboardInterrupt` that says what
is stored. Outside the main thread, and where the program has a handler of its own, Ctrl-C stays what it was.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType

_NOTE = b"\nhyperseek: storing what is done; press Ctrl-C again to stop at once\n"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a long step; the message says what is stored and how to resume."""


class _Step:
    def __init__(self, message: Callable[[], str]) -> None:
        self.message = message
        self.asked = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        # Not `print`: the signal may have interrupted a write to the same buffer.
        with suppress(OSError, ValueError):  # there may be no standard error to write to
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, _NOTE)


_running: _Step | None = None


@contextmanager
def stoppable(message: Callable[[], str]) -> Iterator[None]:
    """Let Ctrl-C wait for the next `stop_here` while the block runs.

    Args:
        message: Says what is stored by now and how to resume; called when the block is stopped.

    Yields:
        Nothing.

    Raises:
        Interrupted: Ctrl-C was pressed.
    """
    # Where another step runs, its places to stop are those of this one too; its message tells of the whole.
    mine = threading.current_thread() is threading.main_thread() and _running is None
    outermost = mine and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        with _handled(_Step(message)) if outermost else nullcontext():
            yield
    except Interrupted:
        raise
    except KeyboardInterrupt as stopped:
        raise Interrupted(message()) from stopped


@contextmanager
def _handled(step: _Step) -> Iterator[None]:
    global _running
    _running = step
    before = signal.signal(signal.SIGINT, step.handle)
    try:
        yield
        if step.asked:
            # There was no further place to stop at: everything is done, which an interrupted caller should not undo.
            raise Interrupted(step.message())
    finally:
        signal.signal(signal.SIGINT, before)
        _running = None


def stop_asked() -> bool:
    """Whether Ctrl-C was pressed and the work should stop at the next place where that loses nothing."""
    return _running is not None and _running.asked


def stop_here() -> None:
    """Stop if Ctrl-C was pressed; to be called where all work so far is on the disk.

    Raises:
        Interrupted: It was.
    """
    step = _running
    if step is not None and step.asked and threading.current_thread() is threading.main_thread():
        raise Interrupted(step.message())
