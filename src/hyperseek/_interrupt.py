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
from contextlib import contextmanager
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
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, _NOTE)


_steps: list[_Step] = []


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
    mine = threading.current_thread() is threading.main_thread()
    outermost = mine and not _steps and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not outermost:
        # The outer step's places to stop are those of this one too; its message tells of the whole.
        try:
            yield
        except Interrupted:
            raise
        except KeyboardInterrupt as stopped:
            raise Interrupted(message()) from stopped
        return
    step = _Step(message)
    _steps.append(step)
    before = signal.signal(signal.SIGINT, step.handle)
    try:
        yield
        if step.asked:
            # There was no further place to stop at: everything is done, which an interrupted caller should not undo.
            raise Interrupted(message())
    except Interrupted:
        raise
    except KeyboardInterrupt as stopped:
        raise Interrupted(message()) from stopped
    finally:
        signal.signal(signal.SIGINT, before)
        _steps.remove(step)


def stop_asked() -> bool:
    """Whether Ctrl-C was pressed and the work should stop at the next place where that loses nothing."""
    return any(step.asked for step in _steps)


def stop_here() -> None:
    """Stop if Ctrl-C was pressed; to be called where all work so far is on the disk.

    Raises:
        Interrupted: It was.
    """
    for step in _steps:
        if step.asked and threading.current_thread() is threading.main_thread():
            raise Interrupted(step.message())
